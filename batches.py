"""Trajectories become time-major batches on the learner's device."""

import contextlib
import functools
import threading
from collections.abc import Callable

import tensorflow as tf

from impala import staging, structures

_END = -1  # The version of the batch that is none: it ends the stream.
_BATCH_AXES = structures.Trajectory(
  actor=0, version=0, agent_state=0, env_outputs=1, agent_outputs=1
)


class BatchStream:
  """Batches on their way from the actors to the learner.

  A thread of its own keeps the staging area full.

  Attributes:
    error: What ended the stream, or None.
  """

  def __init__(
    self,
    take: Callable[[], structures.Trajectory],
    specs: structures.Trajectory,
    batch_size: int,
    device: str,
    permits: tf.queue.QueueBase | None = None,
  ):
    """Makes a stream that `start` starts.

    Args:
      take: Waits for a batch; raises `tf.errors.CancelledError` or
        `OutOfRangeError` when no more come.
      specs: Of a trajectory.
      batch_size: B.
      device: The learner's.
      permits: A queue that gets one element for each unroll of a batch, when
        the batch is asked for; or None.
    """
    self._batch_size = batch_size
    self._permits = permits
    batched = batch_specs(specs, batch_size)
    self._staging = staging.StagingArea(batched, device)
    self._end = tf.nest.map_structure(
      lambda spec: tf.zeros(spec.shape, spec.dtype), batched
    )._replace(version=tf.fill([batch_size], tf.constant(_END, tf.int64)))
    self.error = None
    self._take = take
    self._thread = threading.Thread(target=self._fill, daemon=True)

  def start(self) -> None:
    """Starts to take batches."""
    self._thread.start()

  def get(self) -> structures.Trajectory | None:
    """Waits for the next batch; None, once, at the end."""
    if self._permits is not None:
      # Closed permits mean that the end is on its way.
      with contextlib.suppress(tf.errors.CancelledError):
        self._permits.enqueue_many(tf.zeros([self._batch_size], tf.int32))
    batch = self._staging.get()
    return None if int(batch.version[0]) == _END else batch

  def _fill(self):
    try:
      while True:
        self._staging.put(self._take())
    except (tf.errors.CancelledError, tf.errors.OutOfRangeError):
      pass  # No more come.
    except Exception as error:
      self.error = error
    self._staging.put(self._end)


def batch_specs(specs: structures.Trajectory, batch_size: int):
  """Specs of a time-major batch of trajectories of `specs`."""

  def batched(axis, spec):
    shape = [*spec.shape[:axis], batch_size, *spec.shape[axis:]]
    return tf.TensorSpec(shape, spec.dtype)

  return structures.Trajectory(
    *(
      tf.nest.map_structure(functools.partial(batched, axis), field)
      for axis, field in zip(_BATCH_AXES, specs, strict=True)
    )
  )


def dequeuer(
  queue: tf.queue.QueueBase, specs: structures.Trajectory, batch_size: int
) -> Callable[[], structures.Trajectory]:
  """Makes a tf.function that takes a batch from a queue of trajectories."""

  @tf.function(autograph=False)
  def dequeue():
    unrolls = [queue.dequeue() for _ in range(batch_size)]
    return stack(unrolls, specs, tf.stack)

  return dequeue


def share(
  batch: structures.Trajectory, index: int, count: int
) -> structures.Trajectory:
  """Returns one of `count` equal parts of a batch."""
  return structures.Trajectory(
    *(
      tf.nest.map_structure(
        lambda t, axis=axis: tf.split(t, count, axis)[index], field
      )
      for axis, field in zip(_BATCH_AXES, batch, strict=True)
    )
  )


def stack(unrolls, specs: structures.Trajectory, function: Callable):
  """Makes trajectories a time-major batch.

  Args:
    unrolls: A list of flat trajectories.
    specs: Theirs.
    function: `tf.stack` or `np.stack`.

  Returns:
    A `structures.Trajectory` of what the function returns.
  """
  axes = [
    axis
    for axis, field in zip(_BATCH_AXES, specs, strict=True)
    for _ in tf.nest.flatten(field)
  ]
  columns = zip(axes, *unrolls, strict=True)
  return tf.nest.pack_sequence_as(
    specs, [function(column, axis) for axis, *column in columns]
  )
