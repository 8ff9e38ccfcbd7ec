"""What befalls a cluster in a few minutes; soak.py says it all."""

import os
import pathlib
import subprocess
import sys

import pytest

_PROGRAM = pathlib.Path(__file__).parent / 'soak.py'
_SECONDS = os.environ.get('SOAK_SECONDS')


@pytest.mark.slow
@pytest.mark.skipif(not _SECONDS, reason='SOAK_SECONDS tells how long')
def test_faults_at_random(tmp_path):
  command = [sys.executable, _PROGRAM, f'--seconds={_SECONDS}']
  done = subprocess.run(
    [*command, f'--folder={tmp_path / "soak"}'],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    timeout=float(_SECONDS) + 2400,  # Each of its waits has an end of its own.
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout
