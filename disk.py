"""A disk that is full or refuses, told as what can be done about it."""

import contextlib
import errno

import tensorflow as tf

from impala.environments import protocol

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def writing(path):
  """A context in which `path`, or something in it, is written.

  Raises:
    UserError: It could not be; earlier checkpoints are as they were.
  """
  try:
    yield
  except (OSError, tf.errors.OpError) as error:
    full = isinstance(error, tf.errors.OpError) or error.errno in _FULL
    remedy = 'Free space there' if full else 'Make it a place to write to'
    raise protocol.UserError(
      f'{path} could not be written: {first_line(error)}. {remedy}, then give '
      'the same command again: it goes on from what is saved.'
    ) from error


def first_line(error: Exception) -> str:
  """Returns what an error says, without the stack traces that may follow."""
  return (str(error).strip() or type(error).__name__).splitlines()[0]
