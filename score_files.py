"""The scores of a test: what they are made of, their files and their table."""

import csv
import io
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping

from impala import disk, schedule, scores
from impala.environments import atari57, dmlab30, protocol

_RECORD = {'checkpoint', 'environment_frames', 'policy', 'levels', 'suite'}
_ROW = {'episodes', 'mean_return', 'standard_error'}


def suite_of(level: str, references: str) -> scores.Suite | None:
  """Returns the suite that has this level, or None."""
  for suite in (dmlab30.suite(references), atari57.suite()):
    if dmlab30.test_level(level) in suite.levels:
      return suite
  return None


def score(results: Iterable[schedule.Result], references: str) -> dict:
  """Scores episodes, by level, and by suite where all of its levels are there.

  Args:
    results: At least one of each level, in the order wanted of levels.
    references: Whose references count for DMLab-30, see `dmlab30.REFERENCES`.

  Returns:
    'levels': for each level its 'episodes', 'mean_return', 'standard_error' (of
    that mean, None for one episode), 'mean_length' in agent steps and, where a
    suite has the level, 'random', 'human', 'human_normalised_score' in percent
    and its 'standard_error_of_score', and 'paper', mean returns by model.
    'suite': None or 'name', 'mean', 'mean_capped' and 'median' in percent.
  """
  by_level = {}
  for result in results:
    by_level.setdefault(result.episode.level, []).append(result)
  levels = {
    level: _score_level(level, of_level, references)
    for level, of_level in by_level.items()
  }
  suite = suite_of(next(iter(levels)), references)
  aggregate = None
  if suite and set(suite.levels) <= set(levels):
    means = {level: row['mean_return'] for level, row in levels.items()}
    total = scores.aggregate(suite, means)
    aggregate = {'name': suite.name, **total._asdict()}
  return {'levels': levels, 'suite': aggregate}


def _score_level(level, results, references):
  returns = [result.episode_return for result in results]
  mean, error = scores.estimate(returns)
  row = {
    'episodes': len(results),
    'mean_return': mean,
    'standard_error': None if math.isnan(error) else error,
    'mean_length': scores.estimate([r.length for r in results]).mean,
  }
  if suite := suite_of(level, references):
    reference = suite.references[dmlab30.test_level(level)]
    row |= {
      **reference._asdict(),
      'human_normalised_score': scores.human_normalised(mean, reference),
      'paper': {
        model: of_model[dmlab30.test_level(level)]
        for model, of_model in suite.paper.items()
        if dmlab30.test_level(level) in of_model
      },
    }
  return row


def write(logdir, record: Mapping) -> None:
  """Writes `scores.json` and `scores.csv`, which appear when they are whole.

  Args:
    logdir: Of the run.
    record: What `score` returns, and what the test was.

  Raises:
    UserError: The disk is full or refuses.
  """
  logdir = pathlib.Path(logdir)
  with disk.writing(logdir):
    _replace(logdir / 'scores.json', json.dumps(record, indent=2) + '\n')
    rows = [_flat(level, row) for level, row in record['levels'].items()]
    fields = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO(newline='')
    writer = csv.DictWriter(text, list(fields))
    writer.writeheader()
    writer.writerows(rows)
    _replace(logdir / 'scores.csv', text.getvalue())


def _replace(path, text):
  beside = path.with_name(f'{path.name}.{os.getpid()}')
  beside.write_text(text, encoding='utf-8', newline='')
  os.replace(beside, path)


def _flat(level, row):
  row = dict(row)
  paper = row.pop('paper', {})
  return {'level': level, **row, **{f'paper_{k}': v for k, v in paper.items()}}


def read(logdir) -> dict | None:
  """Returns a run's scores; None where it has not been tested.

  Raises:
    UserError: The file is damaged.
  """
  path = pathlib.Path(logdir) / 'scores.json'
  try:
    record = json.loads(path.read_text(encoding='utf-8'))
    if missing := _RECORD - set(record):
      raise ValueError(f'no {", ".join(sorted(missing))}')
    if not record['levels'] or not all(
      set(row) >= _ROW for row in record['levels'].values()
    ):
      raise ValueError('no scores of a level')
    return record
  except FileNotFoundError:
    return None
  except (OSError, ValueError, TypeError, AttributeError) as error:
    raise protocol.UserError(
      f'{path} is damaged ({error}): run --mode=test --logdir={logdir} again; '
      'episodes that it has played already are not played again.'
    ) from error


def table(record: Mapping) -> str:
  """Returns the scores as a table of text."""
  models = list(
    dict.fromkeys(
      model
      for row in record['levels'].values()
      for model in row.get('paper', ())
    )
  )
  header = ['level', 'episodes', 'return', 'std. error']
  normalised = any('human' in row for row in record['levels'].values())
  if normalised:
    header += ['score %', 'random', 'human', *(title(m) for m in models)]
  rows = [header]
  for level, row in record['levels'].items():
    cells = [level, str(row['episodes'])]
    cells += [_number(row['mean_return']), _number(row['standard_error'])]
    if normalised:
      paper = row.get('paper', {})
      cells += [
        _number(row.get(name))
        for name in ('human_normalised_score', 'random', 'human')
      ]
      cells += [_number(paper.get(model)) for model in models]
    rows.append(cells)
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = [
    '  '.join(
      cell.rjust(width) if i else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()
    for cells in rows
  ]
  if suite := record['suite']:
    lines.append(
      f'{suite["name"]}, human-normalised: mean {suite["mean"]:.1f} %, each '
      f'level capped at 100 {suite["mean_capped"]:.1f} %, median '
      f'{suite["median"]:.1f} %'
    )
  return '\n'.join(lines)


def title(model: str) -> str:
  """Returns the name of one of the paper's models, for people."""
  return model.replace('_', ' ')


def _number(value):
  return '-' if value is None else f'{value:.1f}'
