"""Which episodes a test is made of, and which are played in one process.

An episode is decided by its number: its seed is its environment's and that of
its actions. So it does not matter which environment plays it, beside which
others, or in which run of a test, but for a rare rounding that depends on the
batch; and none that was begun is left out, which would favour the short ones.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from impala.environments import registry

_SHARE = 1000  # Episodes of a process: their seeds are sent in one message.
_SEED_LIMIT = 2**31 - 1


class Episode(NamedTuple):
  """One to be played."""

  level: str
  number: int  # Within its level.


class Result(NamedTuple):
  """What came of an episode."""

  episode: Episode
  episode_return: float
  length: int  # Agent steps.


def episode_seed(seed: int, episode: Episode) -> int:
  """Returns the seed of an episode in a test with the seed `seed`."""
  entropy = [seed, episode.number, *episode.level.encode()]
  return int(np.random.SeedSequence(entropy).generate_state(1)[0]) % _SEED_LIMIT


def deal(
  episodes: Sequence[Episode], num_environments: int
) -> Iterator[list[Episode]]:
  """Yields shares of episodes, level after level, of one level each."""
  levels = {}
  for episode in episodes:
    levels.setdefault(episode.level, []).append(episode)
  for level, of_level in levels.items():
    if registry.episodes_are_independent(level):
      shares = max(num_environments, math.ceil(len(of_level) / _SHARE))
    else:
      shares = len(of_level)  # A process each.
    for first in range(min(shares, len(of_level))):
      yield of_level[first::shares]
