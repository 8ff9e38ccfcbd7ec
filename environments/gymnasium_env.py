"""Any Gymnasium environment with a discrete action space."""

import numpy as np

from impala.environments import protocol


class GymnasiumEnv:
  """A Gymnasium environment.

  Images of bytes are served as they are; vectors, and discrete observations as
  one-hot vectors, as float32. An episode ends where it terminates and where it
  is truncated alike: no value flows past either.

  Args:
    level_name: `gym:<id>`, or `gym:<module>:<id>` to import a module first.
    options: How to make it.
  """

  def __init__(self, level_name: str, options: protocol.Options):
    try:
      import gymnasium
    except ImportError as error:
      raise protocol.UserError(
        f'Level {level_name!r} needs gymnasium, which is not installed:'
        ' pip install gymnasium'
      ) from error
    try:
      self._env = gymnasium.make(
        level_name.removeprefix('gym:'), disable_env_checker=True
      )
    except (gymnasium.error.Error, ImportError, ValueError) as error:
      raise protocol.UserError(
        f'Gymnasium cannot make {level_name!r}: {error}'
      ) from error

    actions = self._env.action_space
    if not isinstance(actions, gymnasium.spaces.Discrete):
      self._env.close()
      raise protocol.UserError(
        f'{level_name!r} has the action space {actions}; only discrete ones'
        ' can be learnt.'
      )
    self._first_action = int(actions.start)
    self._space = self._env.observation_space
    self._is_discrete = isinstance(self._space, gymnasium.spaces.Discrete)
    if self._is_discrete:
      shape, dtype = (int(self._space.n),), 'float32'
    elif not isinstance(self._space, gymnasium.spaces.Box):
      shape, dtype = (), ''
    elif self._space.dtype == np.uint8 and len(self._space.shape) in (2, 3):
      shape, dtype = (*self._space.shape, 1)[:3], 'uint8'
    elif self._space.dtype.kind in 'fiu' and len(self._space.shape) == 1:
      shape, dtype = self._space.shape, 'float32'
    else:
      shape, dtype = (), ''
    if not shape:
      self._env.close()
      raise protocol.UserError(
        f'{level_name!r} has the observation space {self._space}; the networks'
        ' take images of bytes, vectors and discrete observations.'
      )

    self.spec = protocol.Spec(shape, int(actions.n), dtype)
    self._num_action_repeats = options.num_action_repeats
    self._seeds = iter(options.episode_seeds or [options.seed])

  def reset(self) -> protocol.Observation:
    """Starts the next episode; without `episode_seeds` only one is seeded."""
    observation, _ = self._env.reset(seed=next(self._seeds, None))
    return self._observation(observation)

  def step(self, action: int) -> protocol.Step:
    """Applies the action for the action repeats and sums the rewards."""
    total = 0.0
    for _ in range(self._num_action_repeats):
      observation, reward, terminated, truncated, _ = self._env.step(
        self._first_action + int(action)
      )
      total += float(reward)
      if terminated or truncated:
        return protocol.Step(total, True, True, None)
    return protocol.Step(total, False, False, self._observation(observation))

  def close(self) -> None:
    """Closes the environment."""
    self._env.close()

  def _observation(self, observation) -> protocol.Observation:
    if self._is_discrete:
      frame = np.zeros(self.spec.frame_shape, np.float32)
      frame[int(observation) - int(self._space.start)] = 1
    else:
      frame = np.asarray(observation, self.spec.frame_dtype)
      frame = frame.reshape(self.spec.frame_shape)
    return protocol.Observation(frame)
