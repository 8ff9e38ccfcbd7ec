import os
import pathlib
import signal
import subprocess
import time

import pytest

from impala.environments import process

_STAND_IN = pathlib.Path(__file__).parent / 'stand_in'


@pytest.fixture
def broken(monkeypatch, tmp_path):
  """Lets processes find `gym:broken_environments:...`.

  Returns:
    A directory where each environment that is closed leaves a file, named by
    its process's pid.
  """
  closed = tmp_path / 'closed'
  closed.mkdir()
  path = os.pathsep.join([str(_STAND_IN), os.environ.get('PYTHONPATH', '')])
  monkeypatch.setenv('PYTHONPATH', path.rstrip(os.pathsep))
  monkeypatch.setenv('BROKEN_CLOSED', str(closed))
  return closed


@pytest.fixture
def launcher(broken):
  """Starts environment processes, `gym:broken_environments:...` as well."""
  launcher = process.Launcher()
  yield launcher
  launcher.close()


@pytest.fixture
def time_limit(request):
  """Nothing may hang: after two minutes, what runs is interrupted.

  A module's TIME_LIMIT_SECONDS says otherwise.
  """

  def interrupt(*_):
    raise TimeoutError('The test takes too long.')

  previous = signal.signal(signal.SIGALRM, interrupt)
  signal.alarm(getattr(request.module, 'TIME_LIMIT_SECONDS', 120))
  yield
  signal.alarm(0)
  signal.signal(signal.SIGALRM, previous)


@pytest.fixture
def nothing_in_shared_memory():
  """Asserts that nothing that came into /dev/shm since the start stays there.

  Other processes, such as tests at the same time, may have things there for a
  moment.
  """
  folder = pathlib.Path('/dev/shm')
  before = set(folder.iterdir())

  def check():
    deadline = time.monotonic() + 10
    while left := set(folder.iterdir()) - before:
      assert time.monotonic() < deadline, left
      time.sleep(0.02)

  return check


@pytest.fixture
def small_disk(tmp_path):
  """A directory that is a disk of 64 kB."""
  path = tmp_path / 'small_disk'
  path.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', str(path)]
  if subprocess.run(mount, capture_output=True).returncode:
    pytest.skip('needs the right to mount')
  yield path
  subprocess.run(['umount', '--lazy', str(path)], check=True)
