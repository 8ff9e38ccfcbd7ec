"""Which environment a level name stands for."""

import dataclasses

from impala.environments import atari57, dmlab30, protocol


def levels(level_name: str, test: bool = False) -> list[str]:
  """Returns a suite's levels in its order, or the one level named.

  Args:
    level_name: A level, or one of the suites `dmlab30` and `atari57`.
    test: Whether to name the suite's held-out variants.
  """
  if level_name == 'dmlab30':
    return list(dmlab30.TEST_LEVELS if test else dmlab30.TRAIN_LEVELS)
  if level_name == 'atari57':
    return list(atari57.suite().levels)
  return [level_name]


def options(config, **fields) -> protocol.Options:
  """Returns `fields`, and what else the flags in `config` have, as options."""
  names = {field.name for field in dataclasses.fields(protocol.Options)}
  of_flags = {k: v for k, v in vars(config).items() if k in names}
  return protocol.Options(**{**of_flags, **fields})


def episodes_are_independent(level_name: str) -> bool:
  """Whether an episode's seed decides it whatever was played before it.

  Not with DeepMind Lab, where it takes a new process as well.
  """
  return level_name.startswith(('doom_', 'atari_', 'gym:'))


def make(level_name: str, options: protocol.Options) -> protocol.Environment:
  """Makes the environment of one level.

  Only its own adapter is imported, and by that only its own library.
  """
  if level_name.startswith('doom_'):
    from impala.environments import doom

    return doom.Doom(level_name, options)
  if level_name.startswith('atari_'):
    from impala.environments import atari

    return atari.Atari(level_name, options)
  if level_name.startswith('gym:'):
    from impala.environments import gymnasium_env

    return gymnasium_env.GymnasiumEnv(level_name, options)
  from impala.environments import dmlab

  return dmlab.DmLab(level_name, options)


def preload_modules(level_name: str) -> tuple[str, ...]:
  """Returns modules that a fork server may import once for all environments.

  None for DeepMind Lab, which seeds itself by the clock when it is imported.
  Those that are not installed are to be skipped: `make` explains what to do.
  """
  if level_name.startswith('doom_'):
    return ('vizdoom', 'cv2')
  if level_name.startswith('atari'):
    return ('gymnasium', 'ale_py', 'cv2')
  if level_name.startswith('gym:'):
    return ('gymnasium',)
  return ()
