import dataclasses

import numpy as np
import pytest
from matplotlib import pyplot as plt

from impala.report import figures, records


@pytest.fixture
def draw(make_run):
  """Draws runs of a level with these columns, and returns what is plotted."""

  def draw(*columns, level='dmlab30'):
    runs = []
    for seed, changes in enumerate(columns):
      run = records.load(make_run(str(seed), level, seed))
      arrays = {name: np.array(values) for name, values in changes.items()}
      runs.append(dataclasses.replace(run, metrics={**run.metrics, **arrays}))
    figure = figures.learning_curves({level: runs})
    if figure is None:
      return None
    (axis,) = figure.axes
    plt.close(figure)
    return axis

  return draw


def _column(values):
  frames = [200 * (i + 1) for i in range(len(values))]
  return {'environment_frames': frames, 'episode_return': values}


def test_seeds_are_a_mean_and_a_band(draw):
  axis = draw(_column([0.0, 2.0]), _column([2.0, 4.0]))
  (line,) = axis.get_lines()
  np.testing.assert_allclose(line.get_ydata()[[0, -1]], [1, 3])
  assert len(axis.collections) == 1
  assert '2 seeds' in line.get_label()


def test_one_report_is_a_point(draw):
  axis = draw(_column([3.0]))
  (line,) = axis.get_lines()
  assert line.get_marker() == 'o'


def test_a_seed_that_has_just_begun_hides_none(draw):
  axis = draw(_column([1.0]), _column([2.0, 3.0, 4.0]))
  assert [len(line.get_xdata()) for line in axis.get_lines()] == [1, 3]


def test_scores_are_not_mixed_with_returns(draw):
  scored = {
    **_column([10.0, 20.0]),
    'capped_human_normalised_score': [np.nan, 5.0],
  }
  assert draw(scored).get_ylabel().startswith('capped')
