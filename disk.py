"""A disk that is full or refuses, told as what can be done about it."""

import contextlib

import tensorflow as tf

from impala.environments import protocol


@contextlib.contextmanager
def writing(path):
  """A context in which `path`, or something in it, is written.

  Raises:
    UserError: It could not be; earlier checkpoints are as they were.
  """
  try:
    yield
  except (OSError, tf.errors.OpError) as error:
    raise protocol.UserError(
      f'{path} could not be written: {str(error).strip().splitlines()[0]}. '
      'Free space there or repair it, then give the same command again: it '
      'goes on from what is saved.'
    ) from error
