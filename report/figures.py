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
_RETURN, _SCORE = 'episode_return', 'capped_human_normalised_score'
_QUANTITIES = {
  _RETURN: 'mean return of the last 100 episodes',
  _SCORE: 'capped human-normalised training score (%)',
}


def learning_curves(groups: Mapping[str, Sequence[records.Run]]):
  """Draws returns over frames: a line a group, its seeds as a band.

  Args:
    groups: See `records.group`.

  Returns:
    A figure with a plot for each level, or None where there are no curves.
  """
  by_level = {}
  for label, runs in groups.items():
    level = runs[0].config.get('level_name', label)
    by_level.setdefault(level, {})[label] = runs
  by_level = {
    level: of_level
    for level, of_level in by_level.items()
    if any(_has(r, _RETURN) for runs in of_level.values() for r in runs)
  }
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
    # Only where all of them have one are scores comparable.
    column = _RETURN
    if all(_has(r, _SCORE) for runs in of_level.values() for r in runs):
      column = _SCORE
    for label, runs in of_level.items():
      _draw_curves(
        axis, label, [_curve(r, column) for r in runs if _has(r, column)]
      )
    axis.set_title(level)
    axis.set_xlabel('environment frames')
    axis.set_ylabel(_QUANTITIES[column])
    axis.grid(alpha=0.3)
    axis.legend(loc='best', fontsize='small')
  return figure


def _has(run, column):
  return not np.isnan(run.metrics.get(column, np.array([np.nan]))).all()


def _curve(run, column):
  """Returns frames and what is in a column, where it is."""
  there = ~np.isnan(run.metrics[column])
  return run.metrics['environment_frames'][there], run.metrics[column][there]


def _draw_curves(axis, label, curves):
  """Draws a mean with its band, from where all are there to the first end."""
  start = max((frames[0] for frames, _ in curves), default=0)
  end = min((frames[-1] for frames, _ in curves), default=0)
  if len(curves) < 2 or start >= end:
    for curve in curves:
      axis.plot(*curve, marker='o' if len(curve[0]) == 1 else '', label=label)
    return
  grid = np.linspace(start, end, _GRID_POINTS)
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
