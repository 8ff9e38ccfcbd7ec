"""The learner at work, on a thread of its own."""

import logging
import threading
import time

_PATIENCE_SECONDS = 30.0


class LearnerThread:
  """Learns from a stream of batches until enough frames are learned from.

  Attributes:
    done: Set when it has ended, by itself or with an `error`.
    error: What ended it, or None.
  """

  def __init__(self, learner, stream, reporter, checkpoints, total_frames):
    """Makes the thread that `start` starts.

    Args:
      learner: A `learner.Learner`.
      stream: A `batches.BatchStream`.
      reporter: A `reporting.Reporter`.
      checkpoints: A `checkpoints.Checkpoints`.
      total_frames: Environment frames at which it is done.
    """
    self.done = threading.Event()
    self.error = None
    self._learner = learner
    self._stream = stream
    self._reporter = reporter
    self._checkpoints = checkpoints
    self._total_frames = total_frames
    self._stopping = threading.Event()
    self._thread = threading.Thread(target=self._run, daemon=True)

  def start(self) -> None:
    """Starts to learn."""
    self._thread.start()

  def stop(self) -> None:
    """Waits for the update under way; the stream must have been ended.

    Not for ever, as other learners may have no batch: between two updates,
    nothing changes.
    """
    self._stopping.set()
    self._thread.join(_PATIENCE_SECONDS)
    if self._thread.is_alive():
      logging.getLogger('impala').warning(
        'The other learners do not come to their next update; they are left.'
      )

  def _run(self):
    ended = False
    try:
      ended = self._learn()
    except Exception as error:
      self.error = error
    self.done.set()
    while not ended:  # Makes room, so that the stream can end.
      ended = self._stream.get() is None

  def _learn(self):
    """Returns whether the stream has ended."""
    frames = int(self._learner.frames)
    waiting_since = time.monotonic()
    while frames < self._total_frames:
      batch = self._stream.get()
      leaving = batch is None or self._stopping.is_set()
      if self._learner.group.any(leaving):
        return batch is None
      began = time.monotonic()
      update = self._learner.update(batch)
      frames = int(self._learner.frames)
      ended = time.monotonic()
      self._reporter.add(
        batch,
        update,
        int(self._learner.updates),
        frames,
        waiting=began - waiting_since,
        working=ended - began,
      )
      self._checkpoints.save_if_due()
      waiting_since = time.monotonic()
    return False
