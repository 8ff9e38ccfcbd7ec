"""Where unrolls of remote actors wait until they are a batch."""

import threading


class Closed(Exception):
  """The inbox takes and gives nothing any more."""


class Inbox:
  """A batch that fills, so that actors wait for a slow learner.

  Thread-safe.
  """

  def __init__(self, size: int):
    """Makes an inbox for `size` unrolls."""
    self._size = size
    self._changed = threading.Condition()
    # Guarded by the condition.
    self._unrolls = []
    self._closed = False

  def put(self, unroll) -> None:
    """Waits for room.

    Raises:
      Closed: `close` has been called.
    """
    with self._changed:
      self._changed.wait_for(
        lambda: self._closed or len(self._unrolls) < self._size
      )
      if self._closed:
        raise Closed
      self._unrolls.append(unroll)
      if len(self._unrolls) == self._size:
        self._changed.notify_all()

  def take(self) -> list:
    """Waits until it is full, and empties it.

    Raises:
      Closed: `close` has been called; what was there is lost.
    """
    with self._changed:
      self._changed.wait_for(
        lambda: self._closed or len(self._unrolls) == self._size
      )
      if self._closed:
        raise Closed
      unrolls, self._unrolls = self._unrolls, []
      self._changed.notify_all()
      return unrolls

  def close(self) -> None:
    """Ends every wait, now and later."""
    with self._changed:
      self._closed = True
      self._changed.notify_all()

  def __len__(self):
    with self._changed:
      return len(self._unrolls)
