"""An environment of one's own, `gym:examples.catch:Catch-v0`.

A ball falls through a grid; the paddle in the last row is to be below it then.
"""

import gymnasium
import numpy as np

ROWS, COLUMNS = 10, 5


class Catch(gymnasium.Env):
  """Returns 1 where the ball is caught and -1 where it is not."""

  action_space = gymnasium.spaces.Discrete(3)  # Left, stay, right.
  observation_space = gymnasium.spaces.Box(0, 1, (ROWS * COLUMNS,), np.float32)

  def reset(self, *, seed=None, options=None):
    """Drops a ball in some column."""
    super().reset(seed=seed)
    self._row, self._column = 0, self.np_random.integers(COLUMNS)
    self._paddle = COLUMNS // 2
    return self._grid(), {}

  def step(self, action):
    """Moves the paddle, and the ball by a row."""
    self._paddle = np.clip(self._paddle + action - 1, 0, COLUMNS - 1)
    self._row += 1
    over = self._row == ROWS - 1
    reward = (1.0 if self._paddle == self._column else -1.0) if over else 0.0
    return self._grid(), reward, over, False, {}

  def _grid(self):
    grid = np.zeros((ROWS, COLUMNS), np.float32)
    grid[self._row, self._column] = grid[-1, self._paddle] = 1
    return grid.ravel()


gymnasium.register('Catch-v0', Catch)
