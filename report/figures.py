"""The pictures of a report."""

import math
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use('Agg')

import numpy as np
from matplotlib import pyplot as plt

from impala import score_files, scores
from impala.report import records

_GRID_POINTS = 300
_COLUMNS = 2
_MARKERS = 'Dosv^x'
_SUITE_SCORE = 'capped_human_normalised_score'


def learning_curves(groups: Mapping[str, Sequence[records.Run]]):
  """Draws returns over frames: a line a group, its seeds as a band.

  Args:
    groups: See `records.group`.

  Returns:
    A figure with a plot for each level, or None where there are no curves.
  """
  by_level = {}
  for label, runs in groups.items():
    runs = [run for run in runs if _curve(run) is not None]
    if runs:
      level = runs[0].config.get('level_name', label)
      by_level.setdefault(level, []).append((label, runs))
  if not by_level:
    return None
  columns = min(_COLUMNS, len(by_level))
  rows = math.ceil(len(by_level) / columns)
  figure, axes = plt.subplots(
    rows,
    columns,
    figsize=(8 if columns == 1 else 6 * columns, 4.2 * rows),
    layout='constrained',
    squeeze=False,
  )
  for axis in axes.flat[len(by_level) :]:
    axis.remove()
  for axis, (level, of_level) in zip(axes.flat, by_level.items(), strict=False):
    for label, runs in of_level:
      _draw_curve(axis, label, [_curve(run) for run in runs])
    axis.set_title(level)
    axis.set_xlabel('environment frames')
    axis.set_ylabel(_quantity(of_level[0][1][0]))
    axis.grid(alpha=0.3)
    axis.legend(loc='best', fontsize='small')
  return figure


def _quantity(run):
  if _has(run, _SUITE_SCORE):
    return 'capped human-normalised training score (%)'
  return 'mean return of the last 100 episodes'


def _has(run, column):
  return not np.isnan(run.metrics.get(column, np.array([np.nan]))).all()


def _curve(run):
  """Returns frames and returns of a run, or None."""
  column = _SUITE_SCORE if _has(run, _SUITE_SCORE) else 'episode_return'
  if not _has(run, column):
    return None
  there = ~np.isnan(run.metrics[column])
  return run.metrics['environment_frames'][there], run.metrics[column][there]


def _draw_curve(axis, label, curves):
  if len(curves) == 1:
    axis.plot(*curves[0], label=label)
    return
  # From where all seeds have a value to where the first of them ends.
  start = max(frames[0] for frames, _ in curves)
  end = min(frames[-1] for frames, _ in curves)
  grid = np.linspace(start, max(start, end), _GRID_POINTS)
  values = np.array([np.interp(grid, *curve) for curve in curves])
  mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=1)
  (line,) = axis.plot(
    grid, mean, label=f'{label}: {len(curves)} seeds, mean ± std. deviation'
  )
  axis.fill_between(
    grid, mean - deviation, mean + deviation, color=line.get_color(), alpha=0.2
  )


def level_bars(run: records.Run):
  """Draws human-normalised scores by level beside the paper's (Figure B.1).

  Returns:
    A figure, or None where no level has a reference.
  """
  rows = {
    level: row
    for level, row in (run.scores or {}).get('levels', {}).items()
    if 'human' in row
  }
  if not rows:
    return None
  places = np.arange(len(rows))
  height = max(2.2, 0.32 * len(rows) + 1.4)
  figure, axis = plt.subplots(figsize=(9, height), layout='constrained')
  axis.barh(
    places,
    [row['human_normalised_score'] for row in rows.values()],
    color='0.65',
    label='this run',
  )
  axis.axvline(100, color='k', linestyle='--', linewidth=1, label='human')
  models = dict.fromkeys(
    model for row in rows.values() for model in row['paper']
  )
  for model, marker in zip(models, _MARKERS, strict=False):
    points = [
      (scores.human_normalised(row['paper'][model], _reference(row)), place)
      for place, row in zip(places, rows.values(), strict=True)
      if model in row['paper']
    ]
    axis.plot(
      *zip(*points, strict=True),
      marker,
      markersize=5,
      label=f'paper: {score_files.title(model)}',
    )
  # Some Atari scores are hundreds of times a human's.
  if max(axis.get_xlim()) > 1000:
    axis.set_xscale('symlog', linthresh=100)
  axis.set_yticks(places, list(rows))
  axis.set_ylim(len(rows) - 0.4, -0.6)  # From the top down.
  axis.set_xlabel('human-normalised score (%)')
  axis.grid(axis='x', alpha=0.3)
  figure.legend(loc='outside upper center', ncols=3, fontsize='small')
  return figure


def _reference(row):
  return scores.Reference(row['random'], row['human'])
