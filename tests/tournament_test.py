import csv

import pytest
from PIL import Image

from impala import schedule, score_files, tournament
from impala.environments import dmlab30


def _record(frames, returns):
  results = [
    schedule.Result(schedule.Episode(level, number), value + number, 10)
    for level, value in returns.items()
    for number in range(2)
  ]
  return {
    'checkpoint': f'ckpt-{frames}',
    'learner_steps': frames // 100,
    'environment_frames': frames,
    **score_files.score(results, 'paper'),
  }


@pytest.mark.parametrize(
  'levels', [('doom_basic',), ('atari_pong', 'gym:x'), dmlab30.TEST_LEVELS]
)
def test_a_row_for_each_checkpoint_and_level(tmp_path, levels):
  records = [
    _record(frames, dict.fromkeys(levels, frames / 100))
    for frames in (100, 200, 300)
  ]
  path = tournament.write(tmp_path, records)
  with Image.open(path) as picture:
    assert picture.width > 500
  with (tmp_path / 'tournament.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 3 * len(levels)
  last = rows[-1]
  assert (last['checkpoint'], last['level']) == ('ckpt-300', levels[-1])
  assert float(last['mean_return']) == 3.5
  assert float(last['standard_error']) == 0.5
  assert bool(last['human_normalised_score']) == (len(levels) == 30)
