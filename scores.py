"""Human-normalised scores: 0 is a random agent, 100 the human reference.

The same functions score a run and reproduce the paper's Tables 3 and 4 from its
results by level.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

CAP = 100.0  # Of a level's score, in percent (Section 5.3.1).


class Reference(NamedTuple):
  """Mean returns of a level that its scores are measured by."""

  random: float
  human: float


@dataclasses.dataclass(frozen=True)
class Suite:
  """Levels that are scored together.

  Attributes:
    name: As `--level_name` has it.
    levels: Their names in tests, in the order of the paper's table.
    references: Of each level.
    paper: The paper's mean returns, by model and level.
  """

  name: str
  levels: tuple[str, ...]
  references: Mapping[str, Reference]
  paper: Mapping[str, Mapping[str, float]]


class Aggregate(NamedTuple):
  """Human-normalised scores of a suite, in percent."""

  mean: float
  mean_capped: float  # Each level's is capped at 100 before (Table 3).
  median: float  # Table 4.


class Estimate(NamedTuple):
  """A mean and its standard error, NaN for a single value."""

  mean: float
  standard_error: float


def human_normalised(mean_return: float, reference: Reference) -> float:
  """Returns a level's score in percent."""
  return 100 * (
    (mean_return - reference.random) / (reference.human - reference.random)
  )


def aggregate(suite: Suite, mean_returns: Mapping[str, float]) -> Aggregate:
  """Scores a suite from each of its levels' mean returns.

  Raises:
    ValueError: Levels are missing.
  """
  if missing := [level for level in suite.levels if level not in mean_returns]:
    raise ValueError(f'{suite.name} lacks {", ".join(missing)}.')
  return aggregate_scores(
    [
      human_normalised(mean_returns[level], suite.references[level])
      for level in suite.levels
    ]
  )


def aggregate_scores(scores: Sequence[float]) -> Aggregate:
  """Aggregates human-normalised scores of levels, in percent."""
  return Aggregate(
    mean=statistics.fmean(scores),
    mean_capped=statistics.fmean(min(score, CAP) for score in scores),
    median=statistics.median(scores),
  )


def estimate(values: Sequence[float]) -> Estimate:
  """Returns the mean of independent values, of which there is at least one."""
  mean = statistics.fmean(values)
  if len(values) == 1:
    return Estimate(mean, math.nan)
  return Estimate(mean, statistics.stdev(values) / math.sqrt(len(values)))
