import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

from impala.environments import doom, protocol

vizdoom = pytest.importorskip('vizdoom')
pytest.importorskip('cv2')

_OPTIONS = protocol.Options()
_PLAY_FOREVER = """\
from impala.environments import doom, protocol
env = doom.Doom('doom_basic', protocol.Options())
env.reset()
print('playing', flush=True)
while True:
  if env.step(0).over:
    env.reset()
"""


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
  """Keeps the tests in a folder of their own, and sees that it stays clean."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  yield tmp_path
  assert not list(tmp_path.iterdir())


def _engines(parent):
  """Process ids of the engines that a process started."""
  children = pathlib.Path(f'/proc/{parent}/task').glob('*/children')
  return [int(pid) for path in children for pid in path.read_text().split()]


def test_keeps_the_protocol_over_several_episodes():
  env = doom.Doom('doom_basic', _OPTIONS)
  assert env.spec == protocol.Spec((72, 96, 3), 3)
  observation = env.reset()
  rewards, over = [], 0
  while over < 2:
    assert observation.frame.shape == (72, 96, 3)
    assert observation.frame.dtype == np.uint8
    assert observation.frame.std() > 5
    step = env.step(0)
    rewards.append(step.reward)
    assert step.done == step.over == (step.observation is None)
    over += step.over
    observation = step.observation or env.reset()
  # 300 frames at a point of penalty each, and then again.
  assert len(rewards) == 2 * 75 and rewards[0] == -4
  env.close()
  env.close()


def _play(seed):
  env = doom.Doom('doom_basic', dataclasses.replace(_OPTIONS, seed=seed))
  frames, rewards = [], []
  for episode in range(3):
    frames.append(env.reset().frame)
    for action in (2, 1, 1, 2, 0, episode):
      step = env.step(action)
      rewards.append(step.reward)
      if step.over:
        break
      frames.append(step.observation.frame)
  env.close()
  return frames, rewards


def test_seeds():
  first, second, third = _play(1), _play(1), _play(2)
  assert first[1] == second[1]
  np.testing.assert_array_equal(first[0], second[0])
  assert any(
    not np.array_equal(a, b) for a, b in zip(first[0], third[0], strict=False)
  )


@pytest.mark.parametrize(
  ('name', 'num_actions'),
  [
    ('basic_audio', 3),
    ('deathmatch', 17),  # And three buttons that want a number.
    ('health_gathering', 3),
    ('multi', 7),
    ('oblige', 18),
    ('take_cover', 2),
  ],
)
def test_scenarios(name, num_actions):
  env = doom.Doom(f'doom_{name}', _OPTIONS)
  assert env.spec.num_actions == num_actions
  env.reset()
  for action in range(num_actions):
    env.step(action)
  env.close()


@pytest.mark.parametrize('name', ['no_such_thing', 'cig', 'multi_duel'])
def test_unknown_scenario_is_the_users_mistake(name):
  with pytest.raises(protocol.UserError, match=f'{name}.*doom_basic, '):
    doom.Doom(f'doom_{name}', _OPTIONS)


def test_missing_game_file_is_the_users_mistake():
  with pytest.raises(protocol.UserError, match=r'doom2\.wad'):
    doom.Doom('doom_doom2', _OPTIONS)


def test_scenario_without_binary_buttons(folder, monkeypatch):
  config = folder / 'turning.cfg'
  config.write_text('available_buttons = { TURN_LEFT_RIGHT_DELTA }\n')
  monkeypatch.setattr(vizdoom, 'scenarios_path', str(folder))
  with pytest.raises(protocol.UserError, match='no button'):
    doom.Doom('doom_turning', _OPTIONS)
  config.unlink()


@pytest.mark.parametrize('module', ['vizdoom', 'cv2'])
def test_missing_packages_are_named(monkeypatch, module):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(protocol.UserError, match=f'{module}.*pip install'):
    doom.Doom('doom_basic', _OPTIONS)


def test_temporary_folder_without_programs(monkeypatch):
  monkeypatch.setattr(os, 'access', lambda *args: False)
  with pytest.raises(protocol.UserError, match='TMPDIR'):
    doom.Doom('doom_basic', _OPTIONS)


@pytest.mark.skipif(sys.platform != 'linux', reason='Reads /proc.')
def test_a_dead_engine_is_an_exception():
  before = set(_engines(os.getpid()))
  env = doom.Doom('doom_basic', _OPTIONS)
  env.reset()
  (engine,) = set(_engines(os.getpid())) - before
  os.kill(engine, signal.SIGKILL)
  with pytest.raises(
    (vizdoom.ViZDoomErrorException, vizdoom.ViZDoomUnexpectedExitException)
  ):
    for _ in range(10):
      env.step(0)
  env.close()


@pytest.mark.skipif(sys.platform != 'linux', reason='Reads /proc.')
def test_a_killed_process_leaves_nothing_behind(nothing_in_shared_memory):
  with subprocess.Popen(
    [sys.executable, '-c', _PLAY_FOREVER], stdout=subprocess.PIPE
  ) as process:
    assert process.stdout.readline() == b'playing\n'
    (engine,) = _engines(process.pid)
    nothing_in_shared_memory()
    process.kill()
  deadline = time.monotonic() + 5
  # A dead one may wait for a while until process 1 takes notice.
  while pathlib.Path(f'/proc/{engine}/exe').exists():
    assert time.monotonic() < deadline
    time.sleep(0.02)


def test_prints_nothing():
  code = (
    'from impala.environments import doom, protocol\n'
    'env = doom.Doom("doom_basic", protocol.Options())\n'
    'env.reset()\n'
    'env.close()\n'
  )
  result = subprocess.run(
    [sys.executable, '-c', code], check=True, capture_output=True
  )
  assert result.stdout == result.stderr == b''
