from impala.environments import atari57


def test_57_games_with_references():
  suite = atari57.suite()
  assert len(suite.levels) == len(set(suite.levels)) == 57
  assert all(level.startswith('atari_') for level in suite.levels)
  assert set(suite.references) == set(suite.levels)
  assert suite.references['atari_pong'] == (-20.7, 14.6)


def test_results_of_the_paper():
  suite = atari57.suite()
  for model in ('shallow_experts', 'deep_experts', 'deep_multitask'):
    assert set(suite.paper[f'impala_{model}']) == set(suite.levels)
  # Some were never published.
  assert 'atari_tennis' not in suite.paper['acktr']
