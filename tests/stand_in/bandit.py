"""`gym:bandit:Bandit-v0`: a coin decides how an episode ends, and when.

Heads is a return of 1 after two steps, tails of 0 after forty.
"""

import gymnasium
import numpy as np

LENGTHS = {1: 2, 0: 40}


def outcome(seed: int) -> int:
  """Returns what an episode of this seed brings."""
  return int(np.random.default_rng(seed).integers(2))


class Bandit(gymnasium.Env):
  action_space = gymnasium.spaces.Discrete(3)
  observation_space = gymnasium.spaces.Box(-1e9, 1e9, (2,), np.float32)

  def reset(self, *, seed=None, options=None):
    self._outcome = outcome(seed)
    self._left = LENGTHS[self._outcome]
    return self._frame(), {}

  def step(self, action):
    self._left -= 1
    over = self._left == 0
    return self._frame(), float(over * self._outcome), over, False, {}

  def _frame(self):
    return np.array([self._left, self._outcome], np.float32)


class Dice(Bandit):
  """An episode of ten steps returns the sum of its actions."""

  def reset(self, *, seed=None, options=None):
    self._outcome, self._left = 0, 10
    return self._frame(), {}

  def step(self, action):
    self._left -= 1
    return self._frame(), float(action), self._left == 0, False, {}


for environment in (Bandit, Dice):
  gymnasium.register(
    f'{environment.__name__}-v0', environment, order_enforce=False
  )
