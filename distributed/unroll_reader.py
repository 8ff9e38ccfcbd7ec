"""Unrolls that come from elsewhere, checked before they reach the learner."""

import numpy as np
import tensorflow as tf

from impala import structures
from impala.distributed import codec


class UnrollReader:
  """Makes bytes flat trajectories that can do no harm. Thread-safe.

  Attributes:
    maximum_bytes: Of an unroll.
  """

  def __init__(self, specs: structures.Trajectory, num_actions: int):
    """Makes a reader of trajectories of specs."""
    flat = tf.nest.flatten(specs)
    self._decode = codec.Decoder(flat)
    self.maximum_bytes = self._decode.maximum_bytes
    self._num_actions = num_actions
    indices = tf.nest.pack_sequence_as(specs, range(len(flat)))
    self._actor = indices.actor
    self._version = indices.version
    self._action = indices.agent_outputs.action
    self._floats = [i for i, spec in enumerate(flat) if spec.dtype.is_floating]

  def __call__(self, data, updates: int) -> list[np.ndarray]:
    """Returns a flat trajectory.

    Args:
      data: The bytes of what `codec.encode` gave.
      updates: The learner's; a learner that has resumed may have lost those
        that the trajectory was made with.

    Raises:
      ValueError: It could do harm.
    """
    flat = self._decode(data)
    action = flat[self._action]
    if action.min() < 0 or action.max() >= self._num_actions:
      raise ValueError('There is no such action.')
    if flat[self._actor] < 0:
      raise ValueError('There is no such actor.')
    if not all(np.isfinite(flat[index]).all() for index in self._floats):
      raise ValueError('A number is not finite.')
    version = min(max(int(flat[self._version]), 0), updates)
    flat[self._version] = np.array(version, np.int64)
    return flat
