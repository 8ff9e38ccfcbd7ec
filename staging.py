"""A StagingArea: the next batch is on the learner's device before it is due."""

import itertools

import tensorflow as tf

_names = itertools.count()


class StagingArea:
  """A bounded buffer of batches on one device. Thread-safe.

  `put` and `get` block; they run eagerly, on the caller's own thread, so that
  no thread of TensorFlow's pools ever waits here.
  """

  def __init__(self, specs, device: str, capacity: int = 1):
    """Makes an empty area.

    Args:
      specs: A nest of `tf.TensorSpec`, of what is put.
      device: Where the tensors are kept.
      capacity: Batches kept at most.
    """
    self._specs = specs
    self._device = device
    self._capacity = capacity
    self._name = f'staging_{next(_names)}'

  def put(self, batch) -> None:
    """Waits for room and copies `batch`, tensors or arrays, to the device.

    Arrays must not be changed afterwards: the copy may share their memory.
    """
    with tf.device(self._device):
      tf.raw_ops.Stage(
        # tf.identity would copy arrays twice.
        values=[tf.raw_ops.Identity(input=t) for t in tf.nest.flatten(batch)],
        capacity=self._capacity,
        shared_name=self._name,
      )

  def get(self):
    """Waits for a batch and takes it."""
    with tf.device(self._device):
      values = tf.raw_ops.Unstage(
        dtypes=[spec.dtype for spec in tf.nest.flatten(self._specs)],
        capacity=self._capacity,
        shared_name=self._name,
      )
    return tf.nest.pack_sequence_as(self._specs, values)
