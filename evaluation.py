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

from impala import (
  actor,
  actor_pool,
  dynamic_batching,
  playing,
  schedule,
  sessions,
)
from impala.environments import process, protocol, step_op

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
    self._num_environments = num_environments
    self._seed = seed
    self._policy = dynamic_batching.batch_fn_with_options(
      maximum_batch_size=num_environments
    )(playing.make_policy(agent, greedy))
    self._play_episode = playing.make_play_episode(agent, self._policy, spec)
    self._sessions = sessions.Sessions(spec, start_process, timeout)
    self._shares = queue.SimpleQueue()
    self._results = queue.SimpleQueue()
    self._error = None

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
      while not self._sessions.closed:
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
    with self._sessions.open(episode.level, [seed]) as handle:
      env_output, _ = step_op.first(handle, self._spec)
      env_output, action = (
        playing.first_step(env_output),
        tf.zeros([1], tf.int32),
      )
      state = self._agent.initial_state(1)
      for step in itertools.count():
        output, state = self._policy(
          action,
          actor.seen_by_policy(env_output, self._spec),
          state,
          playing.step_noise(tf.constant(seed), tf.constant(step)),
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
    self._sessions.close()
    self._policy.close()

  def _run(self):
    """One environment's thread: plays share after share."""
    try:
      while not self._sessions.closed:
        self._play_share(self._shares.get_nowait())
    except queue.Empty:
      pass
    except Exception as error:
      if not self._sessions.closed:
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
        with self._sessions.open(level, seeds) as handle:
          for result in self._play_in(handle, list(left), seeds):
            failures = 0
            self._results.put(result)
            left.remove(result.episode)
      except process.EnvironmentFailure as error:
        if self._sessions.closed:
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

  def _play_in(self, handle, episodes, seeds):
    """Yields a result for each episode, played in turn."""
    env_output, _ = step_op.first(handle, self._spec)
    for episode, seed in zip(episodes, seeds, strict=True):
      if self._sessions.closed:
        return
      env_output = self._play_episode(handle, env_output, tf.constant(seed))
      info = env_output.info
      yield schedule.Result(
        episode, float(info.episode_return[0]), int(info.episode_step[0])
      )
