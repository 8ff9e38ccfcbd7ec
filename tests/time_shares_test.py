import pytest

from impala import actor_pool, time_shares


@pytest.mark.parametrize(
  ('waits', 'limit'),
  [
    ((0.1, 0.8, 0.1, 0.1), 'the learner'),
    ((0.8, 0.1, 0.6, 0.2), 'the environments'),
    ((0.8, 0.1, 0.2, 0.6), 'inference'),
    ((0.0, 0.0, 0.0, 0.0), 'the environments'),
  ],
)
def test_limiting_factor(waits, limit):
  sentence = time_shares.limiting_factor(*waits)
  assert sentence.startswith(f'Limited by {limit}: ')
  for share in waits:
    assert f'{share:.0%}' in sentence


def test_shares_of_an_interval():
  before = actor_pool.Totals(2, 10, 20, 1.0, 2.0, 3.0, 0)
  after = actor_pool.Totals(2, 14, 32, 3.0, 7.0, 4.0, 1)
  assert time_shares.time_shares(after, before, 1.0, 3.0, elapsed=5.0) == {
    'batch_fill': 3.0,
    'learner_wait': 0.25,
    'actor_wait': 0.1,
    'environment_wait': 0.5,
    'inference_wait': 0.2,
  }


def test_nothing_has_happened():
  totals = actor_pool.Totals(0, 0, 0, 0.0, 0.0, 0.0, 0)
  shares = time_shares.time_shares(totals, totals, 0.0, 0.0, elapsed=0.0)
  assert set(shares.values()) == {0.0}


def test_actors_that_count_from_0_again():
  before = actor_pool.Totals(1, 0, 0, 9.0, 9.0, 9.0, 0)
  after = actor_pool.Totals(1, 0, 0, 1.0, 1.0, 99.0, 0)
  shares = time_shares.time_shares(after, before, 1.0, 1.0, elapsed=10.0)
  assert shares['inference_wait'] == shares['environment_wait'] == 0.0
  assert shares['actor_wait'] == 1.0
