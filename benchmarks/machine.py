"""Where and with what a benchmark ran, to stand beside its results."""

import json
import os
import pathlib
import platform
import sys

import tensorflow as tf


def describe() -> dict:
  """Returns the machine, the versions and the command."""
  model = next(
    (
      line.split(':', 1)[1].strip()
      for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines()
      if line.startswith('model name')
    ),
    platform.processor(),
  )
  return {
    'cpu': model,
    'cores': os.cpu_count(),
    'python': platform.python_version(),
    'tensorflow': tf.__version__,
    'command': ' '.join(
      [
        f'python -m impala.benchmarks.{pathlib.Path(sys.argv[0]).stem}',
        *sys.argv[1:],
      ]
    ),
  }


def write(path: str, results) -> None:
  """Writes `results` with the description of the machine to a JSON file."""
  target = pathlib.Path(path)
  target.parent.mkdir(parents=True, exist_ok=True)
  text = json.dumps({'machine': describe(), 'results': results}, indent=2)
  target.write_text(text + '\n', encoding='utf-8')
