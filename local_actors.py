"""Actors of this process: their environments, and their pool."""

from collections.abc import Callable

import tensorflow as tf

from impala import actor_pool
from impala.environments import process, protocol, registry


def make_starter(
  config, launcher: process.Launcher, past: int, first: int = 0
) -> Callable[[int, int], process.EnvironmentProcess]:
  """Makes what starts actor i's environment, at its n-th attempt.

  Args:
    config: Has experiment.py's flags as attributes.
    launcher: Starts processes.
    past: Updates at the start: a resumed run sees new episodes.
    first: The number of actor 0 among all of a cluster.
  """
  levels = registry.levels(config.level_name)

  def start(index, attempt=0):
    number = first + index
    seed = actor_pool.environment_seed(config.seed, number, past, attempt)
    options = registry.options(
      config, seed=seed, full_action_space=config.level_name == 'atari57'
    )
    return launcher.start(levels[number % len(levels)], options)

  return start


def make_pool(
  config,
  num_actors: int,
  agent,
  spec: protocol.Spec,
  version: tf.Variable,
  start_process: Callable[[int, int], process.EnvironmentProcess],
  lockstep: bool,
) -> actor_pool.ActorPool:
  """Makes the pool of actors that the flags ask for.

  Args:
    config: Has experiment.py's flags as attributes.
    num_actors: How many.
    agent: Acts.
    spec: Of the environments.
    version: The update count of what the agent acts with.
    start_process: See `make_starter`.
    lockstep: Whether unrolls wait for permits.
  """
  return actor_pool.ActorPool(
    agent,
    spec,
    version,
    start_process,
    unroll_length=config.unroll_length,
    batching={
      'minimum_batch_size': min(
        config.inference_minimum_batch or (num_actors + 1) // 2, num_actors
      ),
      'maximum_batch_size': num_actors,
      'timeout_ms': config.inference_timeout_ms,
    },
    timeout=config.environment_timeout_secs,
    lockstep=lockstep,
  )
