import pytest

from impala import training_score
from impala.environments import dmlab30


def test_a_score_whenever_all_levels_have_new_returns():
  score = training_score.TrainingScore()
  references = dmlab30.suite().references
  for round_, share in enumerate((1.0, 0.5)):
    for level in dmlab30.TRAIN_LEVELS[:-1]:
      human = references[dmlab30.test_level(level)].human
      assert score.add(level, share * human) is None
    # Several returns of a level are averaged.
    first = references[dmlab30.TEST_LEVELS[0]]
    if round_ == 0:
      assert score.add(dmlab30.TRAIN_LEVELS[0], 5 * first.human) is None
    last = dmlab30.TRAIN_LEVELS[-1]
    done = score.add(last, share * references[last].human)
    if round_ == 0:
      assert done.mean_capped == pytest.approx(100)
      assert done.mean > 105
    else:
      assert 40 < done.mean_capped < 50


def test_other_levels_have_no_score():
  score = training_score.TrainingScore()
  for level in ('doom_basic', 'atari_pong', 'lt_chasm') * 20:
    assert score.add(level, 1.0) is None
