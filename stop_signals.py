"""SIGINT and SIGTERM, as something to wait for."""

import signal
import threading

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
  """A context in which SIGINT and SIGTERM are a request to stop.

  Until the first `wait` they raise KeyboardInterrupt, as there is nothing to
  save yet; from then on they are only heard by it.

  Attributes:
    received: The signal's name, or None.
  """

  def __init__(self):
    self.received = None
    self._event = threading.Event()
    self._waited = False

  def __enter__(self):
    self._previous = {number: signal.getsignal(number) for number in _NUMBERS}
    self.listen()
    return self

  def listen(self) -> None:
    """Listens again, where something else has taken the signals over."""
    for number in _NUMBERS:
      signal.signal(number, self._on_signal)

  def __exit__(self, *_):
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def wait(self, seconds: float) -> bool:
    """Waits; returns at once, and True, when a signal has come."""
    self._waited = True
    return self._event.wait(seconds)

  def _on_signal(self, number, _):
    self.received = signal.Signals(number).name
    self._event.set()
    if not self._waited:
      raise KeyboardInterrupt
