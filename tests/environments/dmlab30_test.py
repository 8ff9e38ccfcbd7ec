import pytest

from impala.environments import dmlab30


def test_thirty_levels_in_the_order_of_the_paper():
  assert len(dmlab30.TRAIN_LEVELS) == len(set(dmlab30.TRAIN_LEVELS)) == 30
  assert len(dmlab30.TEST_LEVELS) == len(set(dmlab30.TEST_LEVELS)) == 30
  assert dmlab30.TRAIN_LEVELS[0] == 'rooms_collect_good_objects_train'
  assert dmlab30.TEST_LEVELS[-1] == 'explore_object_rewards_many'


def test_two_levels_have_a_held_out_variant():
  pairs = zip(dmlab30.TRAIN_LEVELS, dmlab30.TEST_LEVELS, strict=True)
  assert [pair for pair in pairs if pair[0] != pair[1]] == [
    ('rooms_collect_good_objects_train', 'rooms_collect_good_objects_test'),
    (
      'rooms_exploit_deferred_effects_train',
      'rooms_exploit_deferred_effects_test',
    ),
  ]


def test_names_are_looked_up_both_ways():
  for train, test in zip(
    dmlab30.TRAIN_LEVELS, dmlab30.TEST_LEVELS, strict=True
  ):
    assert dmlab30.is_level(train) and dmlab30.is_level(test)
    assert dmlab30.test_level(train) == dmlab30.test_level(test) == test
    assert dmlab30.train_level(train) == dmlab30.train_level(test) == train


def test_other_names_stay_as_they_are():
  assert not dmlab30.is_level('lt_chasm')
  assert dmlab30.test_level('lt_chasm') == 'lt_chasm'
  assert dmlab30.train_level('lt_chasm') == 'lt_chasm'


@pytest.mark.parametrize(
  ('model', 'references', 'score'),
  [
    ('impala_experts_deep', 'paper', 44.4),
    ('impala_deep_pbt', 'paper', 49.3),
    ('impala_experts_deep', 'scalable_agent', 45.7),
    ('impala_deep_pbt', 'scalable_agent', 50.1),
  ],
)
@pytest.mark.parametrize('names', [dmlab30.TRAIN_LEVELS, dmlab30.TEST_LEVELS])
def test_the_score_of_the_paper(model, references, score, names):
  results = dmlab30.suite().paper[model]
  returns = {
    name: [results[dmlab30.test_level(name)] + d for d in (-1, 1)]
    for name in names
  }
  assert dmlab30.compute_human_normalized_score(
    returns, 100, references
  ) == pytest.approx(score, abs=0.05)


def test_the_cap_is_a_levels():
  returns = {
    level: [reference.human]
    for level, reference in dmlab30.suite().references.items()
  }
  returns[dmlab30.TEST_LEVELS[0]] = [1e6]
  score = dmlab30.compute_human_normalized_score
  assert score(returns, per_level_cap=100) == pytest.approx(100)
  assert score(returns, per_level_cap=130) == pytest.approx(101)
  assert score(returns, per_level_cap=None) > 1000


@pytest.mark.parametrize('returns', [None, []])
def test_no_score_without_all_levels(returns):
  every = {level: [1.0] for level in dmlab30.TRAIN_LEVELS}
  del every['rooms_watermaze']
  if returns is not None:
    every['rooms_watermaze'] = returns
  with pytest.raises(ValueError, match='rooms_watermaze'):
    dmlab30.compute_human_normalized_score(every, 100)


def test_lasertag_references_are_swapped_in_the_released_code():
  paper, released = map(dmlab30.suite, dmlab30.REFERENCES)
  for kind in ('one_opponent', 'three_opponents'):
    large, small = f'lasertag_{kind}_large', f'lasertag_{kind}_small'
    assert paper.references[large].human == pytest.approx(
      released.references[small].human, abs=0.1
    )
  with pytest.raises(ValueError, match='somebody'):
    dmlab30.suite('somebody')
