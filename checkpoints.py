"""Checkpoints of the learner: atomic, time-based, a few kept."""

import pathlib
import re
import time

import tensorflow as tf

from impala import disk
from impala.environments import protocol

# What TensorFlow raises for files that are damaged or of another structure.
_UNREADABLE = (
  AssertionError,
  LookupError,
  RuntimeError,
  ValueError,
  tf.errors.OpError,
)


def newest(logdir) -> str | None:
  """Returns the path of the newest checkpoint that is there, or None.

  Raises:
    UserError: There are checkpoints, but not the file that lists them.
  """
  logdir = pathlib.Path(logdir)
  try:
    state = tf.train.get_checkpoint_state(str(logdir))
  except ValueError:  # It is empty.
    state = None
  if state:
    listed = [*state.all_model_checkpoint_paths, state.model_checkpoint_path]
    return next(filter(_exists, reversed(listed)), None)
  if there := sorted(logdir.glob('ckpt-*.index'), key=_updates):
    raise protocol.UserError(
      f'{logdir / "checkpoint"}, which lists the checkpoints, is damaged or '
      'missing. Write one line into it to go on, model_checkpoint_path: '
      f'"{there[-1].stem}", or use another --logdir.'
    )
  return None


def kept(logdir) -> list[str]:
  """Returns the paths of all checkpoints that are there, oldest first.

  Raises:
    UserError: There is none.
  """
  there = sorted(pathlib.Path(logdir).glob('ckpt-*.index'), key=_updates)
  if not there:
    raise protocol.UserError(
      f'{logdir} has no checkpoint: name the directory of a run with --logdir, '
      'or train one there first.'
    )
  return [str(path.with_suffix('')) for path in there]


def named(logdir, name: str) -> str:
  """Returns the path of a checkpoint, of the newest where `name` is ''.

  Raises:
    UserError: It is not there.
  """
  there = kept(logdir)
  if not name:
    return newest(logdir) or there[-1]
  for path in there:
    if pathlib.Path(path).name == pathlib.Path(name).name:
      return path
  names = ', '.join(pathlib.Path(path).name for path in there)
  raise protocol.UserError(f'{logdir} has no {name}; it has {names}.')


def restore_agent(path: str, agent) -> tuple[int, int]:
  """Restores an agent alone; returns its updates and environment frames.

  Raises:
    UserError: The checkpoint is damaged or of another network.
  """
  counts = [tf.Variable(0, dtype=tf.int64) for _ in range(2)]
  learner = tf.train.Checkpoint(
    agent=agent, updates=counts[0], frames=counts[1]
  )
  _restore(tf.train.Checkpoint(learner=learner), path)
  return int(counts[0]), int(counts[1])


def updates(logdir) -> int:
  """Returns the update count of the newest checkpoint's name; 0 for none."""
  path = newest(logdir)
  return _updates(path) if path else 0


class Checkpoints:
  """The checkpoints of one log directory. For the learner's thread."""

  def __init__(self, learner: tf.Module, logdir, interval: float, keep: int):
    """Opens the directory.

    Args:
      learner: What is saved: agent, optimizer and counts.
      logdir: Of the run.
      interval: Seconds between two checkpoints.
      keep: How many of the newest are kept.
    """
    self._checkpoint = tf.train.Checkpoint(learner=learner)
    self._manager = tf.train.CheckpointManager(
      self._checkpoint, str(logdir), max_to_keep=keep
    )
    self._logdir = pathlib.Path(logdir)
    self._interval = interval
    self._saved_at = time.monotonic()
    self._learner = learner

  def restore(self) -> bool:
    """Restores the newest checkpoint; returns whether there was one.

    Raises:
      UserError: The newest checkpoint is damaged or of another network.
    """
    path = newest(self._logdir)
    if path is None:
      return False
    _restore(self._checkpoint, path)
    return True

  def save_if_due(self) -> None:
    """Saves when the interval has passed since the last time."""
    if time.monotonic() - self._saved_at >= self._interval:
      self.save()

  def save(self) -> None:
    """Saves now. The file appears under its name only when it is whole.

    Raises:
      UserError: The disk is full or refuses; earlier checkpoints are kept.
    """
    with disk.writing(self._logdir):
      self._manager.save(checkpoint_number=self._learner.updates)
    self._saved_at = time.monotonic()


class Elsewhere:
  """The checkpoints of a learner that is not the first: it writes none."""

  def restore(self) -> bool:
    """Leaves everything as it is."""
    return False

  def save_if_due(self) -> None:
    """Saves nothing."""

  def save(self) -> None:
    """Saves nothing."""


def _restore(checkpoint, path):
  # Of what a checkpoint has besides, and of what is told below.
  tf.get_logger().setLevel('ERROR')
  try:
    status = checkpoint.restore(path).expect_partial()
    status.assert_existing_objects_matched()
  except _UNREADABLE as error:
    raise protocol.UserError(
      f'{path} cannot be restored ({disk.first_line(error)}). If the run had '
      'another --network or other levels, name them or use another --logdir; '
      f'if the file is damaged, delete {path}.*, and the one before it is used.'
    ) from error


def _exists(path):
  return pathlib.Path(f'{path}.index').exists()


def _updates(path):
  """The last number in a name; other programs' names may have none."""
  numbers = re.findall(r'\d+', pathlib.Path(path).name)
  return int(numbers[-1]) if numbers else 0
