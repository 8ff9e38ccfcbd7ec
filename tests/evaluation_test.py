import os
import pathlib
import signal
import sys
import threading
import time

import pytest

from impala import evaluation, schedule
from impala.environments import process, protocol
from impala.networks import agent as agents

sys.path.append(str(pathlib.Path(__file__).parent / 'stand_in'))

import bandit

_BANDIT = 'gym:bandit:Bandit-v0'
_DICE = 'gym:bandit:Dice-v0'
_STEADY = 'gym:broken_environments:Steady-v0'
_SPEC = protocol.Spec((2,), 3, 'float32')

pytestmark = pytest.mark.usefixtures('time_limit')


@pytest.fixture(scope='module')
def agent():
  return agents.make_agent('shallow', _SPEC)


@pytest.fixture
def play(launcher, agent):
  """Plays episodes; returns (return, length) by (level, number)."""

  def play(episodes, environments=4, stopped=lambda: False, **options):
    started = []

    def start(level, seeds):
      started.append(
        launcher.start(
          level,
          protocol.Options(
            seed=seeds[0], episode_seeds=seeds, num_action_repeats=1
          ),
        )
      )
      return started[-1]

    play.started = started
    options = {'seed': 1, 'greedy': False, 'timeout': 30.0, **options}
    evaluator = evaluation.Evaluator(
      agent, _SPEC, start, environments, **options
    )
    return {
      result.episode: (result.episode_return, result.length)
      for result in evaluator.play(episodes, stopped)
    }

  return play


def _episodes(level, count):
  return [schedule.Episode(level, number) for number in range(count)]


def test_all_episodes_that_start_count_however_long_they_are(play):
  episodes = _episodes(_BANDIT, 40)
  outcomes = {
    episode: bandit.outcome(schedule.episode_seed(1, episode))
    for episode in episodes
  }
  assert 10 < sum(outcomes.values()) < 30
  assert play(episodes, environments=16) == {
    episode: (float(outcome), bandit.LENGTHS[outcome])
    for episode, outcome in outcomes.items()
  }


def test_an_episode_is_the_same_whoever_plays_it(play):
  episodes = _episodes(_DICE, 12)
  alone = play(episodes, environments=1)
  assert len(set(alone.values())) > 3
  assert play(episodes, environments=7) == alone
  last = play(episodes[-1:], environments=1)
  assert last == {episodes[-1]: alone[episodes[-1]]}


def test_seeds_give_other_episodes(play):
  episodes = _episodes(_DICE, 12)
  assert play(episodes, seed=1) != play(episodes, seed=2)


def test_greedy_episodes_do_not_depend_on_noise(play):
  results = play(_episodes(_DICE, 6), greedy=True)
  assert len(set(results.values())) == 1


def test_several_levels(play):
  episodes = [*_episodes(_DICE, 3), *_episodes(_BANDIT, 3)]
  assert set(play(episodes, environments=16)) == set(episodes)


def test_a_process_for_each_episode_where_others_would_change_it(
  play, monkeypatch
):
  episodes = _episodes(_DICE, 5)
  together = play(episodes, environments=2)
  assert len(play.started) == 2
  monkeypatch.setattr(
    schedule.registry, 'episodes_are_independent', lambda _: False
  )
  assert play(episodes, environments=2) == together
  assert len(play.started) == 5


def test_nothing_to_play(play):
  assert play([]) == {}


def test_a_lost_environment_is_replaced_and_nothing_changes(play):
  # Each process dies in its 50th step, the last of its fifth episode.
  level = 'gym:broken_environments:ExitsAtStep50-v0'
  episodes = _episodes(level, 5)
  results = play(episodes, environments=1)
  assert results == dict.fromkeys(episodes, (10.0, 10))
  assert len(play.started) > 1


def test_a_level_that_keeps_failing_ends_the_test(play):
  with pytest.raises(process.EnvironmentFailure, match='failed 3 times'):
    play(_episodes('gym:broken_environments:RaisesAtStep5-v0', 2))


def test_a_level_that_does_not_exist_ends_the_test(play):
  with pytest.raises(protocol.UserError, match='NoSuch'):
    play(_episodes('gym:NoSuch-v0', 2))


def test_a_level_with_other_actions_ends_the_test(play):
  with pytest.raises(protocol.UserError, match='the same frames and actions'):
    play(_episodes('gym:CartPole-v1', 2))


def test_it_can_be_stopped(play):
  stop_at = time.monotonic() + 1.0
  level = 'gym:broken_environments:SleepsAtStep5-v0'
  began = time.monotonic()
  assert not play(
    _episodes(level, 3), stopped=lambda: time.monotonic() > stop_at
  )
  assert time.monotonic() - began < 20
  assert all(environment.files == () for environment in play.started)
  assert threading.active_count() < 10


def test_killed_environments_are_replaced(play):
  episodes = _episodes(_DICE, 200)
  expected = play(episodes, environments=2)

  def kill():
    while not killed and not done.wait(0.01):
      for environment in play.started[:1]:
        if environment.pid:
          os.kill(environment.pid, signal.SIGKILL)
          killed.append(environment.pid)

  killed, done, play.started = [], threading.Event(), []
  killer = threading.Thread(target=kill)
  killer.start()
  try:
    assert play(episodes, environments=2) == expected
  finally:
    done.set()
    killer.join()
  assert killed


def test_watching_sees_what_is_played(launcher, agent, play):
  episodes = _episodes(_DICE, 2)
  played = play(episodes)
  evaluator = evaluation.Evaluator(
    agent,
    _SPEC,
    lambda level, seeds: launcher.start(
      level,
      protocol.Options(
        seed=seeds[0], episode_seeds=seeds, num_action_repeats=1
      ),
    ),
    num_environments=1,
    seed=1,
    greedy=False,
    timeout=30.0,
  )
  moments = list(evaluator.watch(episodes, lambda: False))
  for episode in episodes:
    *of_episode, end = [m for m in moments if m.episode == episode]
    assert [m.step for m in of_episode] == list(range(10))
    assert not any(m.over for m in of_episode) and end.over
    total = sum(m.action for m in of_episode)
    assert total == end.episode_return == played[episode][0]
    assert of_episode[-1].episode_return == total - of_episode[-1].action
    for moment in of_episode:
      assert moment.probabilities.shape == (3,)
      assert moment.probabilities.sum() == pytest.approx(1)
