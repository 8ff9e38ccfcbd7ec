"""The thirty levels of DMLab-30 (Table B.1), and their scores."""

import csv
import functools
import pathlib
import statistics
from collections.abc import Mapping, Sequence

from impala import scores

_TABLE = pathlib.Path(__file__).parent.parent / 'paper' / 'dmlab30.csv'

with _TABLE.open(newline='', encoding='utf-8') as _file:
  _ROWS = list(csv.DictReader(_file))

# In the order of the table; two levels have a held-out variant for testing.
TRAIN_LEVELS = tuple(row['train_level'] for row in _ROWS)
TEST_LEVELS = tuple(row['test_level'] for row in _ROWS)

# Where the reference scores are from; two levels' are swapped between the two.
REFERENCES = ('paper', 'scalable_agent')
_MODELS = ('impala_experts_deep', 'impala_deep_pbt')

_TEST_LEVEL = dict(zip(TRAIN_LEVELS, TEST_LEVELS, strict=True))
_TRAIN_LEVEL = dict(zip(TEST_LEVELS, TRAIN_LEVELS, strict=True))


def is_level(level_name: str) -> bool:
  """Whether this is one of the suite's names, for training or for testing."""
  return level_name in _TEST_LEVEL or level_name in _TRAIN_LEVEL


def test_level(level_name: str) -> str:
  """Returns the name under which a level of the suite is tested."""
  return _TEST_LEVEL.get(level_name, level_name)


def train_level(level_name: str) -> str:
  """Returns the name under which a level of the suite is trained on."""
  return _TRAIN_LEVEL.get(level_name, level_name)


@functools.cache
def suite(references: str = 'paper') -> scores.Suite:
  """Returns the suite, by the names of its tests.

  Args:
    references: Whose random and human scores to use: one of `REFERENCES`.
  """
  if references not in REFERENCES:
    raise ValueError(f'references must be one of {REFERENCES}: {references!r}.')
  rows = {row['test_level']: row for row in _ROWS}
  return scores.Suite(
    name='dmlab30',
    levels=TEST_LEVELS,
    references={
      level: scores.Reference(
        random=float(row[f'random_{references}']),
        human=float(row[f'human_{references}']),
      )
      for level, row in rows.items()
    },
    paper={
      model: {level: float(row[model]) for level, row in rows.items()}
      for model in _MODELS
    },
  )


def compute_human_normalized_score(
  level_returns: Mapping[str, Sequence[float]],
  per_level_cap: float | None,
  references: str = 'paper',
) -> float:
  """Returns the mean human-normalised score of the thirty levels, in percent.

  Args:
    level_returns: Episode returns of every level, by the names of training or
      of testing.
    per_level_cap: Above which a level's score does not count, such as 100; None
      for no cap.
    references: Whose random and human scores to use: one of `REFERENCES`.

  Raises:
    ValueError: A level is missing, or has no returns.
  """
  returns = {test_level(name): level_returns[name] for name in level_returns}
  if missing := [
    name for name in TEST_LEVELS if not len(returns.get(name, ()))
  ]:
    raise ValueError(f'There are no returns of {", ".join(missing)}.')
  known = suite(references).references
  normalised = [
    scores.human_normalised(statistics.fmean(returns[name]), known[name])
    for name in TEST_LEVELS
  ]
  if per_level_cap is not None:
    normalised = [min(score, per_level_cap) for score in normalised]
  return statistics.fmean(normalised)
