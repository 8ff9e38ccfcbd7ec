"""Runs pytest on one of Bazel's tests, with its own `impala` and no other."""

import os
import pathlib
import subprocess
import sys
import tempfile

import pytest


def main(arguments: list[str]) -> int:
  """Runs pytest with `arguments`; returns the exit status."""
  root = pathlib.Path(__file__).parent.parent
  with tempfile.TemporaryDirectory() as packages:
    # Not every Bazel calls the folder `impala`. For subprocesses, too, what is
    # found here comes before what is installed.
    pathlib.Path(packages, 'impala').symlink_to(root)
    status = subprocess.call(
      [
        *(sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider'),
        f'--junitxml={os.environ["XML_OUTPUT_FILE"]}',
        *('-m', 'not slow', *arguments),
      ],
      cwd=root,
      env={**os.environ, 'PYTHONPATH': packages},
    )
  # Where all of a file's tests are slow, or their packages are missing.
  return 0 if status == pytest.ExitCode.NO_TESTS_COLLECTED else status


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
