"""Environment processes as TensorFlow sees them: a handle and a step op."""

import re
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from impala import ops_library, structures
from impala.environments import process, protocol

_OPS = ops_library.load('environments/_ops.so')
_FIRST_OBSERVATION = -1

# What `step` raises where the environment is to be replaced.
FAILURES = (
  tf.errors.DataLossError,
  tf.errors.DeadlineExceededError,
  tf.errors.AbortedError,
)
_REASON = re.compile(r'The environment .*?(?=\n\t \[\[|\Z)', re.DOTALL)


def failure_reason(error: Exception) -> str:
  """Returns what an error of `step` tells, without TensorFlow's story of it."""
  found = _REASON.search(str(error))
  return found[0] if found else str(error)


def open_channel(
  environment: process.EnvironmentProcess, timeout: float
) -> tf.Tensor:
  """Opens the channel to an environment process that is ready.

  Args:
    environment: `wait_ready` has returned.
    timeout: Seconds after which a step counts as hung.

  Returns:
    A resource handle; the channel closes with the last copy of it.
  """
  spec = environment.spec
  return _OPS.impala_environment(
    files=list(environment.files),
    seed=environment.options.seed,
    frame_bytes=int(np.prod(spec.frame_shape))
    * np.dtype(spec.frame_dtype).itemsize,
    timeout_ms=int(timeout * 1000),
  )


def close_channel(handle: tf.Tensor) -> None:
  """Ends the step under way, and every later one, as cancelled."""
  _OPS.impala_environment_close(handle)


class Statistics(NamedTuple):
  """What a channel has done since it was opened."""

  replies: int
  seconds_waited: float


def statistics(handle: tf.Tensor) -> Statistics:
  """Returns the channel's counts."""
  replies, nanoseconds = _OPS.impala_environment_statistics(handle).numpy()
  return Statistics(int(replies), float(nanoseconds) / 1e9)


def step(
  handle: tf.Tensor, action: tf.Tensor, spec: protocol.Spec
) -> tuple[structures.StepOutput, tf.Tensor]:
  """Takes an action, without blocking a thread while the environment works.

  Args:
    handle: From `open_channel`.
    action: int32 `[1]`.
    spec: The environment's.

  Returns:
    A `structures.StepOutput` of `[1, ...]`, and uniform noise in [0, 1),
    float32 `[1]`, from the environment's own generator.

  Raises:
    tf.errors.DataLossError: The process died.
    tf.errors.DeadlineExceededError: The process hangs.
    tf.errors.AbortedError: The environment raised; the message has its
      traceback.
    tf.errors.CancelledError: The channel was closed or the call cancelled.
  """
  out = _OPS.impala_environment_step(
    environment=handle,
    action=action,
    frame_shape=spec.frame_shape,
    frame_dtype=spec.frame_dtype,
  )
  return (
    structures.StepOutput(
      reward=out.reward,
      info=structures.StepOutputInfo(
        out.episode_return, out.episode_step, out.episode_over
      ),
      done=out.done,
      observation=structures.Observation(out.frame, out.instruction),
    ),
    out.noise,
  )


def first(handle, spec):
  """Awaits the first observation; returns what `step` does."""
  return step(handle, tf.constant([_FIRST_OBSERVATION]), spec)
