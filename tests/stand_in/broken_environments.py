"""Gymnasium environments that break in every way, for tests.

`gym:broken_environments:<what>At<when>-v0`, and `Steady-v0`, which does not. A
file `<pid>` appears in the directory $BROKEN_CLOSED, where it is set, when an
environment is closed.
"""

import ctypes
import functools
import os
import pathlib
import signal
import subprocess
import sys
import time

import gymnasium
import numpy as np


def _raise():
  raise RuntimeError('broken on purpose')


def _raise_much():
  raise RuntimeError('\N{GRINNING FACE}' * 100_000 + 'broken on purpose')


def _exit():
  os._exit(3)


def _segfault():
  ctypes.string_at(0)


def _sleep():
  time.sleep(3600)


def _hang():
  """In C, with the interpreter's lock held and SIGTERM ignored."""
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  ctypes.PyDLL(None).sleep(3600)


def _anything():
  number = np.random.default_rng().integers(5)
  (_raise, _exit, _segfault, _sleep, _hang)[number]()


class Broken(gymnasium.Env):
  """Episodes of ten steps, a point each; a frame tells step and last action."""

  action_space = gymnasium.spaces.Discrete(3)
  observation_space = gymnasium.spaces.Box(-1e9, 1e9, (2,), np.float32)

  def __init__(self, breaks=None, when=None, num_actions=3):
    self._breaks, self._when = breaks, when
    self.action_space = gymnasium.spaces.Discrete(num_actions)
    self._steps = self._episode_steps = 0
    self._break_if('Make')

  def _break_if(self, when):
    if when == self._when:
      self._breaks()

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self._break_if('Reset')
    self._episode_steps = 0
    return np.array([0, -1], np.float32), {}

  def step(self, action):
    self._steps += 1
    self._episode_steps += 1
    self._break_if(f'Step{self._steps}')
    # Not before it has given a trajectory: three failures in a row end a run.
    if self._steps > 50 and np.random.default_rng().random() < 1 / 400:
      self._break_if('Random')
    observation = np.array([self._episode_steps, action], np.float32)
    return observation, 1.0, self._episode_steps == 10, False, {}

  def close(self):
    self._break_if('Close')
    if 'BROKEN_CLOSED' in os.environ:
      pathlib.Path(os.environ['BROKEN_CLOSED'], str(os.getpid())).touch()


class Parent(Broken):
  """Has a process of its own, as game engines do, and tells of it nowhere."""

  def __init__(self):
    super().__init__()
    code = 'import time; time.sleep(3600)'
    subprocess.Popen([sys.executable, '-S', '-c', code], close_fds=False)


gymnasium.register('Steady-v0', Broken)
gymnasium.register('Other-v0', functools.partial(Broken, num_actions=4))
gymnasium.register('Parent-v0', Parent)
for _name, _breaks in {
  'Raises': _raise,
  'RaisesMuch': _raise_much,
  'Exits': _exit,
  'Segfaults': _segfault,
  'Sleeps': _sleep,
  'Hangs': _hang,
  'Anything': _anything,
}.items():
  for _when in ('Make', 'Reset', 'Step5', 'Step50', 'Random', 'Close'):
    gymnasium.register(
      f'{_name}At{_when}-v0', functools.partial(Broken, _breaks, _when)
    )
