import csv
import json

import pytest

from impala import schedule, score_files
from impala.environments import atari57, dmlab30, protocol


def _results(level, returns, length=10):
  return [
    schedule.Result(schedule.Episode(level, number), value, length)
    for number, value in enumerate(returns)
  ]


def _score(results, references='paper'):
  return score_files.score(results, references)


def test_a_level_without_references():
  scores = _score(_results('doom_basic', [1.0, 3.0]))
  assert scores == {
    'levels': {
      'doom_basic': {
        'episodes': 2,
        'mean_return': 2.0,
        'standard_error': 1.0,
        'mean_length': 10.0,
      }
    },
    'suite': None,
  }


def test_a_level_of_a_suite():
  scores = _score(_results('atari_pong', [14.6]))
  (row,) = scores['levels'].values()
  assert row['human_normalised_score'] == pytest.approx(100)
  assert row['standard_error'] is None
  assert row['paper']['impala_deep_experts'] == 20.98
  assert scores['suite'] is None


@pytest.mark.parametrize(
  ('suite', 'model', 'name', 'score'),
  [
    (atari57.suite(), 'impala_deep_experts', 'median', 191.8),
    (dmlab30.suite(), 'impala_deep_pbt', 'mean_capped', 49.3),
  ],
)
def test_a_suite_scores_as_the_paper_did(suite, model, name, score):
  results = [
    result
    for level, value in suite.paper[model].items()
    for result in _results(level, [value - 1, value + 1])
  ]
  scores = _score(results)
  assert scores['suite']['name'] == suite.name
  assert scores['suite'][name] == pytest.approx(score, abs=0.05)
  assert f'{scores["suite"][name]:.1f}' in score_files.table(scores)


def test_references_of_the_released_code():
  results = _results('lasertag_one_opponent_large', [12.7])
  paper = _score(results)['levels']['lasertag_one_opponent_large']
  released = _score(results, 'scalable_agent')
  assert paper['human_normalised_score'] == pytest.approx(100)
  (row,) = released['levels'].values()
  assert row['human_normalised_score'] < 80


def test_files(tmp_path):
  record = {
    'checkpoint': 'ckpt-1',
    'environment_frames': 100,
    'policy': 'sampled',
    **_score(_results('atari_pong', [1, 2])),
  }
  score_files.write(tmp_path, record)
  assert score_files.read(tmp_path) == record
  with (tmp_path / 'scores.csv').open(newline='') as file:
    (row,) = csv.DictReader(file)
  assert row['level'] == 'atari_pong'
  assert row['paper_impala_deep_experts'] == '20.98'
  assert {path.name for path in tmp_path.iterdir()} == {
    'scores.json',
    'scores.csv',
  }


def test_no_scores_yet(tmp_path):
  assert score_files.read(tmp_path) is None


@pytest.mark.parametrize(
  'text',
  [
    '',
    '{"levels": {"a"',
    '{}',
    '[]',
    '3',
    '{"checkpoint": "a", "environment_frames": 1, "policy": "sampled",'
    ' "suite": null, "levels": {"a": {}}}',
  ],
)
def test_damaged_scores(tmp_path, text):
  (tmp_path / 'scores.json').write_text(text)
  with pytest.raises(protocol.UserError, match='--mode=test') as caught:
    score_files.read(tmp_path)
  assert '\n' not in str(caught.value)


def test_json_is_for_any_parser(tmp_path):
  record = _score(_results('doom_basic', [1.0]))
  score_files.write(tmp_path, record)

  def refuse(name):
    raise AssertionError(f'{name} is no JSON')

  json.loads((tmp_path / 'scores.json').read_text(), parse_constant=refuse)


def test_table():
  results = [*_results('atari_pong', [1, 2]), *_results('doom_basic', [3])]
  lines = score_files.table(_score(results)).splitlines()
  assert len(lines) == 3
  assert lines[0].startswith('level') and 'score %' in lines[0]
  assert (
    len(
      {
        line.index(word) + len(word)
        for line, word in zip(lines, ('episodes', ' 2 ', ' 1 '), strict=True)
      }
    )
    <= 2
  )
  assert lines[2].split()[:4] == ['doom_basic', '1', '3.0', '-']
