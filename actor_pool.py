"""Keeps the actors acting: a thread each, and a new process for a dead one."""

import contextlib
import itertools
import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from impala import actor, dynamic_batching
from impala.environments import process, protocol, step_op

# Failures of one actor, with no trajectory between them, that end the run.
MAX_FAILURES = 3
_GRACE_SECONDS = 2.0  # For the process that is replaced.
_PERMITS = 1 << 20  # More than any batch needs.


def environment_seed(seed: int, index: int, start: int, attempt: int) -> int:
  """A seed for one environment process, different from every other's.

  Args:
    seed: The run's.
    index: The actor's.
    start: Frames at the start: a resumed run sees new episodes.
    attempt: How many processes the actor has had before.
  """
  entropy = np.random.SeedSequence([seed, index, start, attempt])
  return int(entropy.generate_state(1)[0] >> 1)


class Totals(NamedTuple):
  """What the actors of a pool have done since it was made."""

  actors: int  # That there are now.
  batches: int  # Of inference.
  batched_rows: int
  inference_seconds: float  # Spent by actors, as are the next two.
  environment_seconds: float
  blocked_seconds: float
  restarts: int


class ActorPool:
  """Runs actors on threads until closed. `close` must be called.

  Attributes:
    specs: Of the trajectories, a `structures.Trajectory`.
    queue: Where they come out, flattened; it is short, so that actors wait for
      a slow learner instead of running ahead of it (Section 3).
    permits: None, or where actors take leave for each unroll.
    error: What ended an actor for good, or None. To be polled.
  """

  def __init__(
    self,
    agent,
    spec: protocol.Spec,
    version: tf.Variable,
    start_process: Callable[[int, int], process.EnvironmentProcess],
    unroll_length: int,
    batching: dict[str, int],
    timeout: float,
    lockstep: bool,
  ):
    """Makes a pool without actors.

    Args:
      agent: Acts in all environments, through dynamic batching.
      spec: That every environment must have.
      version: The learner's update count.
      start_process: Starts actor i's environment, at its n-th attempt.
      unroll_length: Of a trajectory, in agent steps.
      batching: Options of `dynamic_batching.batch_fn_with_options`.
      timeout: Seconds in which an environment must start, or make a step.
      lockstep: Whether unrolls wait for permits.
    """
    self.specs = actor.trajectory_specs(agent, spec, unroll_length)
    flat = tf.nest.flatten(self.specs)
    self.queue = tf.queue.FIFOQueue(
      1, [s.dtype for s in flat], [s.shape for s in flat]
    )
    self.permits = None
    if lockstep:
      self.permits = tf.queue.FIFOQueue(_PERMITS, tf.int32, [()])
    self.error = None
    self._spec = spec
    self._start_process = start_process
    self._unroll_length = unroll_length
    self._timeout = timeout
    self._blocked = tf.Variable(0.0, dtype=tf.float64, trainable=False)
    self._policy = dynamic_batching.batch_fn_with_options(**batching)(agent)
    self._actor_loop = actor.make_actor_loop(
      agent,
      self._policy,
      spec,
      unroll_length,
      self.queue,
      version,
      self._blocked,
      self.permits,
    )
    self._closing = threading.Event()
    self._threads = []
    self._lock = threading.Lock()
    # Guarded by the lock.
    self._channels = {}
    self._processes = {}
    self._restarts = 0
    self._past_seconds = 0.0  # In channels that are closed.

  def start(self, processes: list[process.EnvironmentProcess]) -> None:
    """Starts an actor for each process, which may still be starting."""
    for index, environment in enumerate(processes):
      self._processes[index] = environment
      thread = threading.Thread(
        target=self._run, args=(index,), name=f'actor-{index}', daemon=True
      )
      self._threads.append(thread)
      thread.start()

  def totals(self) -> Totals:
    """Returns the counts so far."""
    with self._lock:
      channels = list(self._channels.values())
      environment_seconds = self._past_seconds
      restarts = self._restarts
    for channel in channels:
      environment_seconds += step_op.statistics(channel).seconds_waited
    inference = self._policy.statistics()
    return Totals(
      actors=len(self._threads),
      batches=inference.batches,
      batched_rows=inference.rows,
      inference_seconds=inference.seconds_waited,
      environment_seconds=environment_seconds,
      blocked_seconds=float(self._blocked),
      restarts=restarts,
    )

  def close(self) -> None:
    """Ends all actors and their processes; no more trajectories come."""
    if self._closing.is_set():
      return
    self._closing.set()
    for queue in filter(None, (self.queue, self.permits)):
      queue.close(cancel_pending_enqueues=True)
    self._policy.close()
    with self._lock:
      channels = list(self._channels.values())
      processes = list(self._processes.values())
    for channel in channels:
      step_op.close_channel(channel)
    for environment in processes:
      environment.close()
    for thread in self._threads:
      thread.join()
    process.close_all(self._processes.values())

  def _run(self, index):
    """One actor's thread."""
    try:
      self._act(index)
    except Exception as error:
      if not self._closing.is_set():
        self.error = error

  def _act(self, index):
    """Acts in one environment process after another, until closed.

    Raises:
      UserError: The environment can't be made, or differs from the others.
      EnvironmentFailure: It failed too often.
    """
    failures = 0
    for attempt in itertools.count(1):
      environment = self._processes[index]
      was_useful = False
      try:
        protocol.check_spec(
          environment.level, environment.wait_ready(self._timeout), self._spec
        )
        handle = step_op.open_channel(environment, self._timeout)
        with self._lock:
          self._channels[index] = handle
        if self._closing.is_set():
          return
        try:
          self._actor_loop(handle, tf.constant(index))
        except step_op.FAILURES:
          self._give_permit_back()
          raise
        finally:
          was_useful = self._forget_channel(index)
      except (process.EnvironmentFailure, *step_op.FAILURES) as error:
        if self._closing.is_set():
          return
        failures = 0 if was_useful else failures + 1
        self._tell_failure(index, error, failures)
      process.close_all([environment], _GRACE_SECONDS)
      with self._lock:
        if self._closing.is_set():
          return
        self._restarts += 1
        self._processes[index] = self._start_process(index, attempt)

  def _give_permit_back(self):
    """The next process of the actor takes one again."""
    if self.permits is not None:
      with contextlib.suppress(tf.errors.CancelledError):  # It is closed.
        self.permits.enqueue(0)

  def _forget_channel(self, index):
    """Keeps the channel's count; returns whether it gave any trajectory."""
    with self._lock:
      statistics = step_op.statistics(self._channels.pop(index))
      self._past_seconds += statistics.seconds_waited
      return statistics.replies > self._unroll_length

  def _tell_failure(self, index, error, failures):
    """Logs a failure; raises when they are too many."""
    level = self._processes[index].level
    reason = step_op.failure_reason(error)
    if failures >= MAX_FAILURES:
      raise process.EnvironmentFailure(
        f'{level} failed {failures} times and gave no trajectory. The last '
        f'time: {reason}'
      ) from error
    logging.getLogger('impala').warning(
      'Actor %d (%s) lost its environment and gets a new one; the unfinished '
      'trajectory is dropped. %s',
      index,
      level,
      reason,
    )
