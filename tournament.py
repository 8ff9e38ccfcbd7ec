"""A run's checkpoints beside each other: score over frames."""

import csv
import pathlib
from collections.abc import Mapping, Sequence

from impala import disk

_FIELDS = (
  'checkpoint',
  'learner_steps',
  'environment_frames',
  'level',
  'episodes',
  'mean_return',
  'standard_error',
  'human_normalised_score',
)


def write(logdir, records: Sequence[Mapping]) -> pathlib.Path:
  """Writes `tournament.csv` and `tournament.png`.

  Args:
    logdir: Of the run.
    records: Of the same test of each checkpoint, see `score_files`.

  Returns:
    The picture's path.

  Raises:
    UserError: The disk is full or refuses.
  """
  logdir = pathlib.Path(logdir)
  with disk.writing(logdir):
    with (logdir / 'tournament.csv').open('w', newline='') as file:
      writer = csv.DictWriter(file, _FIELDS, extrasaction='ignore')
      writer.writeheader()
      for record in records:
        for level, row in record['levels'].items():
          writer.writerow({**record, **row, 'level': level})
    _draw(records, logdir / 'tournament.png')
  return logdir / 'tournament.png'


def _draw(records, path):
  """Draws the suite's score, or the levels' mean returns."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot as plt

  figure, axes = plt.subplots(figsize=(8, 4.5), layout='constrained')
  frames = [record['environment_frames'] for record in records]
  if records[0]['suite']:
    for name in ('mean_capped', 'median'):
      values = [record['suite'][name] for record in records]
      axes.plot(frames, values, 'o-', label=name.replace('_', ' '))
    axes.set_ylabel('human-normalised score (%)')
    axes.set_title(records[0]['suite']['name'])
  else:
    for level in records[0]['levels']:
      rows = [record['levels'][level] for record in records]
      axes.errorbar(
        frames,
        [row['mean_return'] for row in rows],
        [row['standard_error'] or 0.0 for row in rows],
        fmt='o-',
        capsize=4,
        label=level,
      )
    axes.set_ylabel('mean return, with its standard error')
  axes.set_xlabel('environment frames')
  axes.grid(alpha=0.3)
  axes.legend()
  figure.savefig(path, dpi=120)
  plt.close(figure)
