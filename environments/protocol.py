"""What an environment is: the protocol that every adapter keeps.

Adapters run in a process of their own and import no TensorFlow.
"""

import dataclasses
from typing import NamedTuple, Protocol

import numpy as np


class UserError(Exception):
  """A user's mistake; its message names the remedy and needs no traceback."""


@dataclasses.dataclass(frozen=True)
class Spec:
  """What the networks and the shared memory need to know beforehand."""

  frame_shape: tuple[int, ...]  # [height, width, channels] or [features].
  num_actions: int
  frame_dtype: str = 'uint8'  # 'uint8' for images, 'float32' for vectors.
  has_instruction: bool = False
  # For people only, '' or none where they are not known.
  action_names: tuple[str, ...] = dataclasses.field(default=(), compare=False)


def check_spec(level: str, spec: Spec, expected: Spec) -> None:
  """Raises `UserError` where a level does not have the spec of the others."""
  if spec != expected:
    raise UserError(
      f'{level} has {spec}, but other levels of this run have {expected}: one '
      'agent needs the same frames and actions in all.'
    )


@dataclasses.dataclass(frozen=True)
class Options:
  """How to make an environment; the fields are plain, so that JSON holds them.

  Attributes:
    width: Of the frames, in pixels (DeepMind Lab and Doom).
    height: Of the frames, in pixels (DeepMind Lab and Doom).
    num_action_repeats: Environment frames an action is applied for.
    seed: Of this one environment.
    dataset_path: DeepMind Lab's data set for psychlab; '' for none.
    level_cache_dir: Where DeepMind Lab's compiled maps are kept; '' for none.
    renderer: DeepMind Lab's: 'software' or 'hardware'.
    test: Whether whole, held-out episodes are played (no end at a lost life).
    full_action_space: Whether Atari games offer all 18 actions.
    episode_seeds: Of the episodes, one each, so that an episode is the same
      whichever environment plays it; () for any number of episodes.
  """

  width: int = 96
  height: int = 72
  num_action_repeats: int = 4
  seed: int = 1
  dataset_path: str = ''
  level_cache_dir: str = ''
  renderer: str = 'software'
  test: bool = False
  full_action_space: bool = False
  episode_seeds: tuple[int, ...] = ()


class Observation(NamedTuple):
  """What the agent sees."""

  frame: np.ndarray  # As Spec.frame_shape and Spec.frame_dtype say.
  instruction: str = ''


class Step(NamedTuple):
  """The outcome of one action.

  Attributes:
    reward: Summed over the action repeats, unclipped.
    done: Whether the agent's episode ended (no value flows past it).
    over: Whether the environment wants a reset. `over` implies `done`; Atari's
      lost lives are `done` while the game goes on.
    observation: The next observation; None where `over`.
  """

  reward: float
  done: bool
  over: bool
  observation: Observation | None


class Environment(Protocol):
  """One episode after another, one action at a time."""

  spec: Spec

  def reset(self) -> Observation:
    """Starts the next episode."""

  def step(self, action: int) -> Step:
    """Applies `action` for the action repeats, or until the episode ends."""

  def close(self) -> None:
    """Gives back processes, files and memory; may be called twice."""
