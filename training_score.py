"""DMLab-30's score while it is trained on, as the released code logs it."""

from impala import scores
from impala.environments import dmlab30


class TrainingScore:
  """Scores the suite each time that all of its levels have new returns."""

  def __init__(self):
    self._returns = {}

  def add(self, level: str, episode_return: float) -> scores.Aggregate | None:
    """Takes note of an episode of any level.

    Returns:
      The score, where this was the last level without a return since the score
      before; else None.
    """
    if not dmlab30.is_level(level):
      return None
    self._returns.setdefault(dmlab30.test_level(level), []).append(
      episode_return
    )
    suite = dmlab30.suite()
    if len(self._returns) < len(suite.levels):
      return None
    score = scores.aggregate(
      suite,
      {
        level: scores.estimate(returns).mean
        for level, returns in self._returns.items()
      },
    )
    self._returns = {}
    return score
