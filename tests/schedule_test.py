import pytest

from impala import schedule
from impala.environments import dmlab30

_ATARI = 'atari_pong'


def _episodes(level, count):
  return [schedule.Episode(level, number) for number in range(count)]


def test_each_episode_has_a_seed_of_its_own():
  seeds = {
    schedule.episode_seed(seed, episode)
    for seed in (1, 2)
    for level in (_ATARI, 'doom_basic')
    for episode in _episodes(level, 500)
  }
  assert len(seeds) == 2 * 2 * 500
  assert all(0 <= seed < 2**31 - 1 for seed in seeds)
  # The same in every process and on every machine.
  assert schedule.episode_seed(1, schedule.Episode(_ATARI, 0)) == 1778021803


@pytest.mark.parametrize('environments', [1, 3, 7, 100])
@pytest.mark.parametrize('count', [0, 1, 7, 2500])
def test_every_episode_is_in_one_share_of_one_level(environments, count):
  episodes = [*_episodes(_ATARI, count), *_episodes('doom_basic', count)]
  shares = list(schedule.deal(episodes, environments))
  dealt = [episode for share in shares for episode in share]
  assert sorted(dealt) == sorted(episodes) and len(dealt) == len(episodes)
  for share in shares:
    assert len({episode.level for episode in share}) == 1
    # Their seeds go to a process in one message.
    assert len(share) <= 1000
    assert len(share) <= -(-count // environments)


def test_deepmind_lab_has_a_process_for_each_episode():
  episodes = _episodes(dmlab30.TEST_LEVELS[0], 5)
  assert list(schedule.deal(episodes, 2)) == [[e] for e in episodes]
