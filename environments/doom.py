"""The scenarios that come with ViZDoom."""

import os
import pathlib
import shlex
import sys
import tempfile

import numpy as np

from impala.environments import protocol

# Without a second player the engine dies of a segmentation fault.
_MULTIPLAYER = {'cig', 'multi_duel'}

# The engine is a process of its own, which would outlive this one if this one
# were killed, and litters its working directory.
_LAUNCHER = """\
#!/bin/sh
cd {home} && exec {python} -I -S -c '
import ctypes, os, signal, sys
if sys.platform == "linux":
  PR_SET_PDEATHSIG = 1
  ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() == {parent}:
  os.execv(sys.argv[1], sys.argv[1:])
' {engine} "$@"
"""


class Doom:
  """A scenario; its actions are its buttons, pressed one at a time.

  Args:
    level_name: `doom_<scenario>`.
    options: How to make it.
  """

  def __init__(self, level_name: str, options: protocol.Options):
    try:
      import cv2
      import vizdoom
    except ImportError as error:
      raise protocol.UserError(
        f'Level {level_name!r} needs {error.name}, which is not installed:'
        ' pip install vizdoom opencv-python-headless'
      ) from error
    cv2.setNumThreads(1)  # The machine is full of environments already.
    self._cv2 = cv2

    scenarios = pathlib.Path(vizdoom.scenarios_path)
    config = scenarios / f'{level_name.removeprefix("doom_")}.cfg'
    known = {path.stem for path in scenarios.glob('*.cfg')} - _MULTIPLAYER
    if config.stem not in known:
      names = ', '.join(f'doom_{name}' for name in sorted(known))
      raise protocol.UserError(
        f'There is no Doom scenario {level_name!r} for one player; there are'
        f' {names}.'
      )

    game = vizdoom.DoomGame()
    game.load_config(str(config))
    buttons = [
      button
      for button in game.get_available_buttons()
      if not button.name.endswith('_DELTA')  # Those want a number.
    ]
    if not buttons:
      raise protocol.UserError(f'{level_name!r} has no button to press.')
    game.set_available_buttons(buttons)
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_audio_buffer_enabled(False)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_doom_config_path(os.devnull)  # Written to when it ends.
    game.set_seed(options.seed)
    try:
      _start(game, vizdoom.exe_path)
    except vizdoom.FileDoesNotExistException as error:
      raise protocol.UserError(
        f'{level_name!r} needs a file that ViZDoom does not have: {error}'
      ) from error

    self._game = game
    self._episode_seeds = iter(options.episode_seeds)
    self._actions = np.eye(len(buttons)).tolist()
    self._num_action_repeats = options.num_action_repeats
    self.spec = protocol.Spec(
      frame_shape=(options.height, options.width, 3),
      num_actions=len(buttons),
      action_names=tuple(
        button.name.lower().replace('_', ' ') for button in buttons
      ),
    )

  def reset(self) -> protocol.Observation:
    """Starts the next episode."""
    seed = next(self._episode_seeds, None)
    if seed is not None:
      self._game.set_seed(seed)
    self._game.new_episode()
    return self._observe()

  def step(self, action: int) -> protocol.Step:
    """Presses a button for the action repeats, or until the episode ends."""
    reward = self._game.make_action(
      self._actions[action], self._num_action_repeats
    )
    over = self._game.is_episode_finished()
    observation = None if over else self._observe()  # No state at the end.
    return protocol.Step(reward, over, over, observation)

  def close(self) -> None:
    """Ends the engine."""
    self._game.close()

  def _observe(self) -> protocol.Observation:
    height, width, _ = self.spec.frame_shape
    frame = self._cv2.resize(
      self._game.get_state().screen_buffer,
      (width, height),
      interpolation=self._cv2.INTER_AREA,
    )
    return protocol.Observation(frame)


def _start(game, engine: str) -> None:
  """Starts the engine such that no end of this process leaves a trace of it."""
  with tempfile.TemporaryDirectory(
    prefix='impala_doom_', ignore_cleanup_errors=True
  ) as home:
    launcher = pathlib.Path(home, 'launcher')
    launcher.write_text(
      _LAUNCHER.format(
        home=shlex.quote(home),
        python=shlex.quote(sys.executable),
        parent=os.getpid(),
        engine=shlex.quote(engine),
      )
    )
    launcher.chmod(0o700)
    if not os.access(launcher, os.X_OK):
      raise protocol.UserError(
        f'No program may run in {os.path.dirname(home)!r}: set TMPDIR to a'
        ' folder where the Doom engine may be started from.'
      )
    game.set_vizdoom_path(str(launcher))
    game.init()
  # Both sides have the shared memory mapped: without its names, the system
  # frees it when they are gone.
  for segment in pathlib.Path('/dev/shm').glob(
    f'ViZDoom*{game.get_instance_id()}'
  ):
    segment.unlink()
