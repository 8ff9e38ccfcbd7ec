"""Plays whole episodes with a trained agent, many at once."""

import contextlib
import itertools
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from impala import actor, actor_pool, dynamic_batching, schedule, structures
from impala.environments import process, protocol, step_op

_GRACE_SECONDS = 2.0
_POLL_SECONDS = 0.1
_MOMENTS_AHEAD = 32  # Of what draws them.


class Stopped(Exception):
  """What was under way is not wanted any more."""


class Moment(NamedTuple):
  """A step of an episode before its action is taken, or the end of it."""

  episode: schedule.Episode
  step: int
  frame: np.ndarray
  action: int
  probabilities: np.ndarray  # Of the actions.
  value: float
  episode_return: float  # So far.
  over: bool = False  # Then all but the return is as in the last step.


def make_policy(agent, greedy: bool):
  """Returns the agent's policy as tests play it.

  Args:
    agent: A `networks.agent.Agent`.
    greedy: Whether to take the most probable action, and not to draw one.
  """

  def policy(last_actions, env_outputs, state, noise):
    output, state = agent(last_actions, env_outputs, state, noise)
    if greedy:
      best = tf.argmax(output.policy_logits, -1, tf.int32)
      output = output._replace(action=best)
    return output, state

  return policy


def first_step(env_output: structures.StepOutput) -> structures.StepOutput:
  """Makes an observation the first of a run: nothing came before it."""
  info = tf.nest.map_structure(tf.zeros_like, env_output.info)
  return env_output._replace(
    reward=tf.zeros_like(env_output.reward),
    info=info,
    done=tf.ones_like(env_output.done),
  )


def step_noise(seed: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
  """Returns what decides the action of a step, float32 `[1]` in [0, 1)."""
  return tf.random.stateless_uniform([1], tf.stack([seed, step]))


class Evaluator:
  """Plays episodes in several environments through dynamic batching."""

  def __init__(
    self,
    agent,
    spec: protocol.Spec,
    start_process: Callable[[str, list[int]], process.EnvironmentProcess],
    num_environments: int,
    seed: int,
    greedy: bool,
    timeout: float,
  ):
    """Makes an evaluator, for one call of `play` or `watch`.

    Args:
      agent: A `networks.agent.Agent`.
      spec: That every environment must have.
      start_process: Starts a level's environment, whose episodes have these
        seeds.
      num_environments: At once.
      seed: Of the test.
      greedy: Whether to take the most probable actions.
      timeout: Seconds in which an environment must start, or make a step.
    """
    self._agent = agent
    self._spec = spec
    self._start_process = start_process
    self._num_environments = num_environments
    self._seed = seed
    self._timeout = timeout
    self._policy = dynamic_batching.batch_fn_with_options(
      maximum_batch_size=num_environments
    )(make_policy(agent, greedy))
    self._play_episode = _make_play_episode(agent, self._policy, spec)
    self._shares = queue.SimpleQueue()
    self._results = queue.SimpleQueue()
    self._error = None
    self._closing = threading.Event()
    self._lock = threading.Lock()
    # Guarded by the lock; by the thread that they belong to.
    self._processes = {}
    self._channels = {}

  def play(
    self, episodes: Sequence[schedule.Episode], stopped: Callable[[], object]
  ) -> Iterator[schedule.Result]:
    """Plays all episodes, in no certain order.

    Args:
      episodes: Different ones.
      stopped: Polled; ends everything early where it returns true.

    Yields:
      A `Result` for each episode, as it ends.

    Raises:
      UserError: A level can't be made, or differs from the agent's.
      EnvironmentFailure: An environment failed too often.
    """
    for share in schedule.deal(episodes, self._num_environments):
      self._shares.put(share)
    threads = [
      threading.Thread(target=self._run, daemon=True)
      for _ in range(min(self._num_environments, self._shares.qsize()))
    ]
    for thread in threads:
      thread.start()
    try:
      left = len(episodes)
      while left and not stopped():
        if self._error is not None:
          raise self._error
        try:
          result = self._results.get(timeout=_POLL_SECONDS)
        except queue.Empty:
          continue
        left -= 1
        yield result
    finally:
      self._close()
      for thread in threads:
        thread.join()

  def watch(
    self, episodes: Sequence[schedule.Episode], stopped: Callable[[], object]
  ) -> Iterator[Moment]:
    """Plays episodes one after another, as `play` does.

    Args:
      episodes: Of one level.
      stopped: Polled.

    Yields:
      Every step of them, and the end of each.

    Raises:
      UserError: The level can't be made, or differs from the agent's.
      EnvironmentFailure: The environment failed.
      Stopped: `stopped` returned true.
    """
    moments = queue.Queue(_MOMENTS_AHEAD)

    def put(moment):
      while not self._closing.is_set():
        with contextlib.suppress(queue.Full):
          return moments.put(moment, timeout=_POLL_SECONDS)

    def watch():
      try:
        for episode in episodes:
          for moment in self._watch(episode):
            put(moment)
        put(None)
      except Exception as error:
        self._error = error

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
      while True:
        if stopped():
          raise Stopped
        try:
          moment = moments.get(timeout=_POLL_SECONDS)
        except queue.Empty:
          if self._error is not None:
            raise self._error from None
          continue
        if moment is None:
          return
        yield moment
    finally:
      self._close()
      thread.join()

  def _watch(self, episode):
    seed = schedule.episode_seed(self._seed, episode)
    with self._open(episode.level, [seed]) as handle:
      env_output, _ = step_op.first(handle, self._spec)
      env_output, action = first_step(env_output), tf.zeros([1], tf.int32)
      state = self._agent.initial_state(1)
      for step in itertools.count():
        output, state = self._policy(
          action,
          actor.seen_by_policy(env_output, self._spec),
          state,
          step_noise(tf.constant(seed), tf.constant(step)),
        )
        action = output.action
        moment = Moment(
          episode,
          step,
          env_output.observation.frame[0].numpy(),
          int(action[0]),
          tf.nn.softmax(output.policy_logits)[0].numpy(),
          float(output.baseline[0]),
          float(env_output.info.episode_return[0]),
        )
        yield moment
        env_output, _ = step_op.step(handle, action, self._spec)
        if env_output.info.episode_over[0]:
          total = float(env_output.info.episode_return[0])
          yield moment._replace(episode_return=total, over=True)
          return

  def _close(self):
    self._closing.set()
    self._policy.close()
    with self._lock:
      channels = list(self._channels.values())
      processes = list(self._processes.values())
    for channel in channels:
      step_op.close_channel(channel)
    process.close_all(processes, _GRACE_SECONDS)

  def _run(self):
    """One environment's thread: plays share after share."""
    try:
      while not self._closing.is_set():
        self._play_share(self._shares.get_nowait())
    except queue.Empty:
      pass
    except Exception as error:
      if not self._closing.is_set():
        self._error = error

  def _play_share(self, share):
    """Plays episodes of one level, in one process after another.

    Raises:
      UserError: The environment can't be made, or differs from the agent's.
      EnvironmentFailure: It failed too often.
    """
    failures, left = 0, list(share)
    while left:
      level = left[0].level
      seeds = [schedule.episode_seed(self._seed, episode) for episode in left]
      try:
        with self._open(level, seeds) as handle:
          for result in self._play_in(handle, list(left), seeds):
            failures = 0
            self._results.put(result)
            left.remove(result.episode)
      except process.EnvironmentFailure as error:
        if self._closing.is_set():
          return
        failures += 1
        if failures == actor_pool.MAX_FAILURES:
          raise process.EnvironmentFailure(
            f'{level} failed {failures} times in episode {left[0].number}. The '
            f'last time: {error}'
          ) from error
        logging.getLogger('impala').warning(
          'Episode %d of %s lost its environment and begins anew. %s',
          left[0].number,
          level,
          error,
        )

  @contextlib.contextmanager
  def _open(self, level, seeds):
    """A context with a channel to a new process, which `_close` ends too.

    Raises:
      UserError: The environment can't be made, or differs from the agent's.
      EnvironmentFailure: It failed, or `_close` was called.
    """
    thread = threading.get_ident()
    with self._lock:
      if self._closing.is_set():
        raise process.EnvironmentFailure('The test is over.')
      environment = self._start_process(level, seeds)
      self._processes[thread] = environment
    try:
      protocol.check_spec(
        level, environment.wait_ready(self._timeout), self._spec
      )
      handle = step_op.open_channel(environment, self._timeout)
      with self._lock:
        self._channels[thread] = handle
      yield handle
    except step_op.FAILURES as error:
      raise process.EnvironmentFailure(step_op.failure_reason(error)) from error
    finally:
      with self._lock:
        closing = self._closing.is_set()
        self._channels.pop(thread, None)
        del self._processes[thread]
      if not closing:
        process.close_all([environment], _GRACE_SECONDS)

  def _play_in(self, handle, episodes, seeds):
    """Yields a result for each episode, played in turn."""
    env_output, _ = step_op.first(handle, self._spec)
    for episode, seed in zip(episodes, seeds, strict=True):
      if self._closing.is_set():
        return
      env_output = self._play_episode(handle, env_output, tf.constant(seed))
      info = env_output.info
      yield schedule.Result(
        episode, float(info.episode_return[0]), int(info.episode_step[0])
      )


def _make_play_episode(agent, policy, spec):
  """Makes the one tf.function that plays an episode in any environment."""

  def step(handle, seed, number, env_output, last_action, state):
    output, state = policy(
      last_action,
      actor.seen_by_policy(env_output, spec),
      state,
      step_noise(seed, number),
    )
    env_output, _ = step_op.step(handle, output.action, spec)
    return number + 1, env_output, output.action, state

  @tf.function(
    autograph=False,
    input_signature=[
      tf.TensorSpec([], tf.resource),
      actor.trajectory_specs(agent, spec, unroll_length=0).env_outputs,
      tf.TensorSpec([], tf.int32),
    ],
  )
  def play_episode(handle, env_output, seed):
    _, env_output, _, _ = tf.while_loop(
      lambda _, env_output, *__: ~env_output.info.episode_over[0],
      lambda *carried: step(handle, seed, *carried),
      (
        tf.constant(0),
        first_step(env_output),
        tf.zeros([1], tf.int32),
        agent.initial_state(1),
      ),
      parallel_iterations=1,
    )
    return env_output

  # Traced here: the threads would all believe that they had done it.
  return play_episode.get_concrete_function()
