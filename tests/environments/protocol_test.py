import pathlib
import sys

import numpy as np
import pytest

from impala.environments import protocol, registry

_STAND_IN = pathlib.Path(__file__).parents[1] / 'stand_in'
_STEPS = 60


def _play(level, seeds):
  """Returns what is seen in as many episodes as there are seeds."""
  options = protocol.Options(seed=1, episode_seeds=seeds, test=True)
  environment = registry.make(level, options)
  episodes = []
  try:
    for _ in seeds:
      actions = np.random.default_rng(0)
      frames = [environment.reset().frame.copy()]
      for _ in range(_STEPS):
        action = int(actions.integers(environment.spec.num_actions))
        step = environment.step(action)
        if step.over:
          break
        frames.append(step.observation.frame.copy())
      episodes.append(np.array(frames))
  finally:
    environment.close()
  return episodes


def _assert_same(episode, other):
  assert episode.shape == other.shape
  # Doom's sparks have a mind of their own.
  assert (episode != other).mean() < 0.01


@pytest.mark.parametrize(
  'level', ['doom_basic', 'atari_pong', 'gym:CartPole-v1']
)
def test_an_episodes_seed_decides_it(level):
  assert registry.episodes_are_independent(level)
  five, six, again = _play(level, (5, 6, 5))
  _assert_same(five, again)
  assert five.shape != six.shape or (five != six).any()
  _assert_same(_play(level, (6,))[0], six)


def test_deepmind_lab_repeats_an_episode_from_its_start_alone(monkeypatch):
  monkeypatch.syspath_prepend(str(_STAND_IN))
  try:
    level = 'rooms_watermaze'
    assert not registry.episodes_are_independent(level)
    (five,), (again,), (six,) = (_play(level, (n,)) for n in (5, 5, 6))
    np.testing.assert_array_equal(five, again)
    assert (five != six).any()
  finally:
    sys.modules.pop('deepmind_lab', None)  # The stand-in is for here alone.


def test_specs_that_differ():
  spec = protocol.Spec((84, 84, 4), 4, action_names=('noop',) * 4)
  named = protocol.Spec((84, 84, 4), 4)
  protocol.check_spec('atari_pong', spec, named)
  other = protocol.Spec((84, 84, 4), 18)
  with pytest.raises(protocol.UserError, match='atari_pong has'):
    protocol.check_spec('atari_pong', spec, other)
