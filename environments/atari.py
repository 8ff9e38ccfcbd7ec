"""Atari games, as in Table G.1, through ale-py and Gymnasium's wrappers."""

import difflib

import numpy as np

from impala.environments import protocol

_SCREEN_SIZE = 84
_STACK_SIZE = 4
_MAX_NOOPS = 30
_MAX_FRAMES = 108_000  # Half an hour of play.


class Atari:
  """One game: grey frames, the last four of them stacked as channels.

  In training an episode is one life, while the game goes on; in test it is the
  whole game. Actions never stick.

  Args:
    level_name: `atari_<game>`, in snake case.
    options: How to make it.
  """

  def __init__(self, level_name: str, options: protocol.Options):
    try:
      import ale_py
      import cv2
      import gymnasium
      from gymnasium import wrappers
    except ImportError as error:
      raise protocol.UserError(
        f'Level {level_name!r} needs {error.name}, which is not installed:'
        ' pip install ale-py gymnasium opencv-python-headless'
      ) from error
    cv2.setNumThreads(1)  # The machine is full of environments already.
    # Without this, every emulator prints a banner.
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)

    games = {
      spec.kwargs['game']: spec.id
      for spec in gymnasium.registry.values()
      if spec.namespace == 'ALE'
    }
    game = level_name.removeprefix('atari_')
    if game not in games:
      close = difflib.get_close_matches(game, games) or sorted(games)
      names = ', '.join(f'atari_{name}' for name in close)
      raise protocol.UserError(
        f'There is no Atari game {level_name!r}. Near to it: {names}.'
      )

    env = gymnasium.make(
      games[game],
      frameskip=1,
      repeat_action_probability=0.0,
      full_action_space=options.full_action_space,
      max_num_frames_per_episode=_MAX_FRAMES,
      disable_env_checker=True,
    )
    env = wrappers.AtariPreprocessing(
      env,
      noop_max=_MAX_NOOPS,
      frame_skip=options.num_action_repeats,
      screen_size=_SCREEN_SIZE,
    )
    self._env = wrappers.FrameStackObservation(env, _STACK_SIZE)
    self._ale = env.ale
    self._lives = 0
    self._life_is_episode = not options.test
    self._seeds = iter(options.episode_seeds or [options.seed])

    names = own = env.unwrapped.get_action_meanings()
    if options.full_action_space:
      names = list(ale_py.Action.__members__)
    self._actions = _own_actions(names, own)
    self.spec = protocol.Spec(
      frame_shape=(_SCREEN_SIZE, _SCREEN_SIZE, _STACK_SIZE),
      num_actions=len(names),
      action_names=tuple(name.lower() for name in names),
    )

  def reset(self) -> protocol.Observation:
    """Starts a new game, with 1 to 30 no-ops."""
    # Seeding again with the same would repeat the no-ops.
    frames, _ = self._env.reset(seed=next(self._seeds, None))
    self._lives = self._ale.lives()
    return _observation(frames)

  def step(self, action: int) -> protocol.Step:
    """Applies the action; a lost life is `done`, the end of a game `over`."""
    frames, reward, terminated, truncated, _ = self._env.step(
      self._actions[action]
    )
    over = terminated or truncated
    previous_lives, self._lives = self._lives, self._ale.lives()
    life_lost = self._life_is_episode and self._lives < previous_lives
    observation = None if over else _observation(frames)
    return protocol.Step(float(reward), over or life_lost, over, observation)

  def close(self) -> None:
    """Closes the emulator."""
    self._env.close()


def _own_actions(names: list[str], own: list[str]) -> list[int]:
  """Returns a game's own actions for those of all games.

  Not every game has all eighteen of the console, as emulators count them: where
  there is no trigger, to pull it changes nothing.
  """
  return [
    own.index(name if name in own else name.removesuffix('FIRE') or own[0])
    for name in names
  ]


def _observation(frames: np.ndarray) -> protocol.Observation:
  return protocol.Observation(np.moveaxis(frames, 0, -1))
