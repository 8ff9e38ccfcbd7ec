"""The 57 games of Atari-57 (Table C.1)."""

import csv
import functools
import pathlib

from impala import scores

_TABLE = pathlib.Path(__file__).parent.parent / 'paper' / 'atari57.csv'
_REFERENCES = ('random', 'human')


@functools.cache
def suite() -> scores.Suite:
  """Returns the suite: references of 30 no-op starts, and published results."""
  with _TABLE.open(newline='', encoding='utf-8') as file:
    rows = {f'atari_{row.pop("game")}': row for row in csv.DictReader(file)}
  models = [
    name for name in next(iter(rows.values())) if name not in _REFERENCES
  ]
  return scores.Suite(
    name='atari57',
    levels=tuple(rows),
    references={
      level: scores.Reference(*(float(row[name]) for name in _REFERENCES))
      for level, row in rows.items()
    },
    paper={
      model: {
        level: float(row[model]) for level, row in rows.items() if row[model]
      }
      for model in models
    },
  )
