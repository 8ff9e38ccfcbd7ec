"""The runs that a report is about, as their log directories tell of them."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from impala import csv_log, score_files
from impala.environments import protocol

# Runs that differ in nothing else are the same with another seed.
_NOT_OF_THE_EXPERIMENT = ('seed', 'logdir', 'mode')


@dataclasses.dataclass(frozen=True)
class Run:
  """One log directory.

  Attributes:
    logdir: Its path.
    config: The flags of the training.
    metrics: Rows of `metrics.csv`, by column; NaN where there is no number.
    scores: See `score_files.score`; None before a test.
  """

  logdir: pathlib.Path
  config: dict[str, Any]
  metrics: dict[str, np.ndarray]
  scores: dict[str, Any] | None

  @property
  def frames(self) -> int:
    """Environment frames that it has learned from."""
    if self.scores:
      return self.scores['environment_frames']
    return int(self.metrics['environment_frames'][-1])


def load(logdir) -> Run:
  """Reads a log directory.

  Raises:
    UserError: It is none, or its scores are damaged.
  """
  logdir = pathlib.Path(logdir)
  if not logdir.is_dir():
    raise protocol.UserError(
      f'{logdir} is no log directory: name the --logdir of a run.'
    )
  rows = list(csv_log.whole_rows(logdir / 'metrics.csv'))
  run = Run(
    logdir=logdir,
    config=_config(logdir),
    metrics={
      name: np.array([_number(row[name]) for row in rows])
      for name in (rows[0] if rows else ())
    },
    scores=score_files.read(logdir),
  )
  if 'environment_frames' not in run.metrics and not run.scores:
    raise protocol.UserError(
      f'{logdir} has neither metrics.csv nor scores.json: name the --logdir of '
      'a training run, or of a test.'
    )
  return run


def _config(logdir):
  try:
    config = json.loads((logdir / 'config.json').read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return {}  # A report can do without.
  return config if isinstance(config, dict) else {}


def _number(text):
  try:
    return float(text)
  except ValueError:
    return float('nan')


def group(runs: Sequence[Run]) -> dict[str, list[Run]]:
  """Puts together the runs that differ in their seed alone, under a label."""
  groups = {}
  for run in runs:
    experiment = {
      name: value
      for name, value in run.config.items()
      if name not in _NOT_OF_THE_EXPERIMENT
    }
    # Nothing is known of a run without flags but where it is.
    key = json.dumps(experiment or str(run.logdir), sort_keys=True)
    groups.setdefault(key, (experiment, []))[1].append(run)
  experiments = [experiment for experiment, _ in groups.values()]
  return {
    _label(experiment, experiments)
    if experiment
    else str(of_group[0].logdir): of_group
    for experiment, of_group in groups.values()
  }


def _label(experiment, experiments):
  """Names a group by its level, and by what tells it apart from the others."""
  level = experiment.get('level_name', 'unknown level')
  differing = [
    f'{name}={value}'
    for name, value in experiment.items()
    if name != 'level_name'
    and any(
      other.get('level_name') == level and other.get(name) != value
      for other in experiments
    )
  ]
  return ', '.join([level, *differing])
