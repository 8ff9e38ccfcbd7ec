"""Loads the compiled ops, or says why they can't be loaded."""

import functools
import pathlib
import re
import shlex
import sys
import types

import tensorflow as tf

_ROOT = pathlib.Path(__file__).parent
_STAMP = re.compile(rb'impala ops compiled against TensorFlow ([\w.+-]+)')


def _remedy(compiled: str | None) -> str:
  """Says which one command brings the ops and TensorFlow together again."""
  if (_ROOT / 'setup.py').exists():  # A clone: compile for what is installed.
    remedy = 'Compile them with'
    arguments = ['--no-build-isolation', '--editable', str(_ROOT)]
  elif compiled:
    remedy = 'Install that version with'
    arguments = [f'tensorflow=={compiled}']
  else:
    return 'Install impala again.'
  command = [sys.executable, '-m', 'pip', 'install', *arguments]
  return f'{remedy}:\n{shlex.join(command)}'


@functools.cache
def load(path: str) -> types.ModuleType:
  """Loads the ops of the package-relative shared library `path`.

  Args:
    path: For example 'dynamic_batching/_ops.so'.

  Returns:
    The module of Python wrappers that TensorFlow makes for the ops.

  Raises:
    ImportError: The library is missing, or was compiled against another
      TensorFlow; the message names the command that repairs it.
  """
  library = _ROOT / path
  if not library.exists():
    raise ImportError(
      f'The compiled ops {library} are missing. {_remedy(None)}'
    )
  stamp = _STAMP.search(library.read_bytes())
  compiled = stamp.group(1).decode() if stamp else None
  if compiled != tf.__version__:
    raise ImportError(
      f'The ops {library} were compiled against TensorFlow '
      f'{compiled or "of unknown version"}, but TensorFlow {tf.__version__} is '
      f'installed. {_remedy(compiled)}'
    )
  return tf.load_op_library(str(library))
