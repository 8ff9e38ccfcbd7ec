import os
import signal
import time

import psutil
import pytest

from impala.environments import process, protocol

pytestmark = pytest.mark.usefixtures('time_limit')

_OPTIONS = protocol.Options(num_action_repeats=1)


def _start(launcher, name):
  level = f'gym:broken_environments:{name}'
  environment = launcher.start(level, _OPTIONS)
  environment.wait_ready(60)
  return environment


def test_has_no_tensorflow_and_is_small(launcher):
  environment = _start(launcher, 'Steady-v0')
  worker = psutil.Process(environment.pid)
  libraries = {mapped.path for mapped in worker.memory_maps()}
  assert any('numpy' in path for path in libraries)
  assert not any('tensorflow' in path for path in libraries)
  assert worker.memory_info().rss < 60e6
  process.close_all([environment])


@pytest.mark.parametrize('name', ['SleepsAtStep5-v0', 'Steady-v0'])
def test_sigterm_closes_the_environment(launcher, broken, name):
  environment = _start(launcher, name)
  for _ in range(5):
    os.eventfd_write(environment.files[1], 1)
    time.sleep(0.1)
  worker = psutil.Process(environment.pid)
  os.kill(environment.pid, signal.SIGTERM)
  assert not psutil.wait_procs([worker], timeout=10)[1]
  assert (broken / str(environment.pid)).exists()


def test_end_of_the_lifeline_closes_the_environment(launcher, broken):
  environment = _start(launcher, 'Steady-v0')
  began = time.monotonic()
  process.close_all([environment])
  assert time.monotonic() - began < 4  # No waiting for the end of the grace.
  assert (broken / str(environment.pid)).exists()


@pytest.mark.parametrize('name', ['RaisesAtReset-v0', 'RaisesAtStep5-v0'])
def test_exception_closes_the_environment(launcher, broken, name):
  environment = _start(launcher, name)
  while psutil.pid_exists(environment.pid):
    os.eventfd_write(environment.files[1], 1)
    time.sleep(0.02)
  assert (broken / str(environment.pid)).exists()


def test_sigint_is_not_for_workers(launcher):
  """Ctrl-C goes to the terminal's process group."""
  environment = _start(launcher, 'Steady-v0')
  assert os.getsid(environment.pid) == environment.pid
  assert os.getsid(launcher._process.pid) != os.getsid(0)


def test_processes_of_the_environment_inherit_nothing(launcher):
  environment = _start(launcher, 'Parent-v0')
  (child,) = psutil.Process(environment.pid).children()
  # Until it has been exec'd, and has loaded its libraries.
  while not child.cmdline()[1:] or child.status() != psutil.STATUS_SLEEPING:
    time.sleep(0.01)
  folder = f'/proc/{child.pid}/fd'
  files = [os.readlink(f'{folder}/{file}') for file in os.listdir(folder)]
  assert len(files) == 3, files  # Standard input, output and error.
  process.close_all([environment])
