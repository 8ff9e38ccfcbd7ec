import math

import pytest

from impala import scores
from impala.environments import atari57, dmlab30


def test_random_is_0_and_human_100():
  reference = scores.Reference(random=-3.0, human=7.0)
  assert scores.human_normalised(-3.0, reference) == 0
  assert scores.human_normalised(7.0, reference) == 100
  assert scores.human_normalised(17.0, reference) == 200
  # Lower than random, and games whose scores are negative.
  assert scores.human_normalised(-4.0, reference) == -10
  skiing = atari57.suite().references['atari_skiing']
  assert scores.human_normalised(skiing.human, skiing) == 100


@pytest.mark.parametrize(
  ('model', 'median'),
  [
    ('impala_deep_multitask', 59.7),
    ('impala_shallow_experts', 93.2),
    ('impala_deep_experts', 191.8),
  ],
)
def test_table_4(model, median):
  suite = atari57.suite()
  assert scores.aggregate(suite, suite.paper[model]).median == pytest.approx(
    median, abs=0.05
  )


@pytest.mark.parametrize(
  ('model', 'score'),
  [('impala_experts_deep', 44.4), ('impala_deep_pbt', 49.3)],
)
def test_table_3(model, score):
  suite = dmlab30.suite()
  total = scores.aggregate(suite, suite.paper[model])
  assert total.mean_capped == pytest.approx(score, abs=0.05)
  assert total.mean > total.mean_capped


def test_aggregates():
  suite = scores.Suite(
    'suite', tuple('abc'), dict.fromkeys('abc', scores.Reference(0, 10)), {}
  )
  total = scores.aggregate(suite, {'a': 1.0, 'b': 2.0, 'c': 30.0})
  assert total == pytest.approx((110.0, 130 / 3, 20.0))


def test_missing_levels_are_named():
  suite = dmlab30.suite()
  some = dict.fromkeys(suite.levels[2:], 1.0)
  with pytest.raises(ValueError, match=', '.join(suite.levels[:2])):
    scores.aggregate(suite, some)


def test_estimate():
  assert scores.estimate([2.0, 4.0, 6.0]) == pytest.approx((4, 2 / 3**0.5))
  alone = scores.estimate([3.0])
  assert alone.mean == 3 and math.isnan(alone.standard_error)
