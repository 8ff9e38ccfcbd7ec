import dataclasses
import itertools
import subprocess
import sys

import numpy as np
import pytest

from impala.environments import atari, protocol, registry

pytest.importorskip('ale_py')
pytest.importorskip('gymnasium')
pytest.importorskip('cv2')

_OPTIONS = protocol.Options()


def test_keeps_the_protocol():
  env = atari.Atari('atari_pong', _OPTIONS)
  assert env.spec == protocol.Spec((84, 84, 4), 6)
  observations = [env.reset()] + [env.step(a).observation for a in range(6)]
  for observation in observations:
    assert observation.frame.shape == (84, 84, 4)
    assert observation.frame.dtype == np.uint8
  # The newest frame is the last channel.
  for old, new in itertools.pairwise(observations):
    np.testing.assert_array_equal(old.frame[..., 1:], new.frame[..., :-1])
  env.close()
  env.close()


def test_a_life_is_an_episode_in_training_only():
  ends = {}
  for test in (False, True):
    env = atari.Atari(
      'atari_breakout', dataclasses.replace(_OPTIONS, test=test)
    )
    env.reset()
    steps = [env.step(1)]
    while not steps[-1].over:
      steps.append(env.step(1))
    ends[test] = [s.done for s in steps]
    assert steps[-1].observation is None
    assert all(s.observation is not None for s in steps[:-1])
    env.reset()  # The new game's lives are not lost ones.
    assert not env.step(0).done
    env.close()
  assert sum(ends[False]) == 5
  assert sum(ends[True]) == 1
  assert len(ends[False]) == len(ends[True])  # The game was the same.


def _first_frames(seed, count):
  env = atari.Atari('atari_pong', dataclasses.replace(_OPTIONS, seed=seed))
  frames = []
  for _ in range(count):
    env.reset()
    frames.append(env.step(3).observation.frame)
  env.close()
  return np.stack(frames)


def test_seeds_choose_the_noops():
  first = _first_frames(1, 4)
  np.testing.assert_array_equal(first, _first_frames(1, 4))
  assert not np.array_equal(first, _first_frames(2, 4))
  assert any(not np.array_equal(first[0], other) for other in first[1:])


def test_one_to_thirty_noops(monkeypatch):
  from ale_py.env import AtariEnv

  noops = []
  reset, step = AtariEnv.reset, AtariEnv.step
  monkeypatch.setattr(
    AtariEnv,
    'reset',
    lambda self, **kwargs: noops.append(0) or reset(self, **kwargs),
  )

  def count(self, action):
    assert action == 0
    noops[-1] += 1
    return step(self, action)

  monkeypatch.setattr(AtariEnv, 'step', count)
  env = atari.Atari('atari_pong', _OPTIONS)
  for _ in range(60):
    env.reset()
  env.close()
  assert min(noops) >= 1 and max(noops) <= 30 and len(set(noops)) > 10


def test_all_57_games_have_all_actions_on_demand():
  options = dataclasses.replace(_OPTIONS, full_action_space=True)
  for name in registry.levels('atari57'):
    env = atari.Atari(name, options)
    assert env.spec.num_actions == 18
    env.reset()
    env.step(17)
    env.close()


def test_a_trigger_that_a_game_does_not_have():
  games = [
    atari.Atari('atari_skiing', protocol.Options(full_action_space=full))
    for full in (False, True)
  ]
  own, full = (game.spec.action_names for game in games)
  assert 'fire' not in own
  frames = []
  for game, name in zip(games, ('right', 'rightfire'), strict=True):
    game.reset()
    action = game.spec.action_names.index(name)
    frames.append([game.step(action).observation.frame for _ in range(30)])
    game.close()
  np.testing.assert_array_equal(*frames)
  assert len(full) == 18


def test_unknown_game_is_the_users_mistake():
  with pytest.raises(protocol.UserError, match='atari_ms_pacman'):
    atari.Atari('atari_mspacman', _OPTIONS)


@pytest.mark.parametrize('module', ['ale_py', 'gymnasium', 'cv2'])
def test_missing_packages_are_named(monkeypatch, module):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(protocol.UserError, match=f'{module}.*pip install'):
    atari.Atari('atari_pong', _OPTIONS)


def test_prints_nothing():
  code = (
    'from impala.environments import atari, protocol\n'
    'atari.Atari("atari_pong", protocol.Options()).reset()\n'
  )
  result = subprocess.run(
    [sys.executable, '-c', code], check=True, capture_output=True
  )
  assert result.stdout == result.stderr == b''
