import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from impala.environments import process, protocol

pytestmark = pytest.mark.usefixtures('time_limit')

_OPTIONS = protocol.Options(num_action_repeats=1)
_STEADY = 'gym:broken_environments:Steady-v0'

# A main process: starts environments, says their pids and waits to be killed.
_MAIN = textwrap.dedent(
  """
  import os, sys, time
  from impala.environments import process, protocol
  launcher = process.Launcher()
  environments = [
    launcher.start(level, protocol.Options(num_action_repeats=1))
    for level in sys.argv[1:]
  ]
  for environment in environments:
    environment.wait_ready(60)
    for _ in range(5):
      os.eventfd_write(environment.files[1], 1)
      time.sleep(0.1)
  print('ready', flush=True)
  time.sleep(3600)
  """
)


def _doom_levels():
  try:
    import vizdoom  # noqa: F401
  except ImportError:
    return []
  return ['doom_basic']


@pytest.mark.parametrize('launcher_too', [False, True])
def test_main_process_leaves_no_orphan(
  broken, nothing_in_shared_memory, launcher_too
):
  levels = [_STEADY, 'gym:broken_environments:Parent-v0', *_doom_levels()]
  if not launcher_too:  # Which kills what does not end by itself.
    levels += [
      'gym:broken_environments:SleepsAtStep5-v0',
      'gym:broken_environments:HangsAtStep5-v0',
      'gym:broken_environments:HangsAtClose-v0',
    ]
  with subprocess.Popen(
    [sys.executable, '-c', _MAIN, *levels], stdout=subprocess.PIPE
  ) as main:
    try:
      assert main.stdout.readline() == b'ready\n'
      (parent,) = psutil.Process(main.pid).children()
      workers = parent.children()
      left_behind = workers[1].children()
      family = parent.children(recursive=True)
      if launcher_too:
        parent.kill()
    finally:
      main.kill()
  assert len(workers) == len(levels) and len(left_behind) == 1
  if launcher_too:  # Nobody is there to end what an environment leaves behind.
    family.remove(left_behind[0])
    left_behind[0].kill()
  _, alive = psutil.wait_procs([parent, *family], timeout=10)
  for orphan in alive:
    orphan.kill()
  assert not alive
  assert (broken / str(workers[0].pid)).exists()
  nothing_in_shared_memory()


def test_dead_launcher_is_replaced(launcher):
  running = launcher.start(_STEADY, _OPTIONS)
  running.wait_ready(60)
  first = launcher._process.pid
  os.kill(first, signal.SIGKILL)
  # At every moment of its dying.
  for _ in range(3):
    environment = launcher.start(_STEADY, _OPTIONS)
    try:
      environment.wait_ready(60)
      break
    except process.EnvironmentFailure as error:
      assert 'its process died' in str(error)
  assert launcher._process.pid != first
  worker = psutil.Process(environment.pid)
  assert worker.ppid() == launcher._process.pid
  os.eventfd_write(running.files[1], 1)
  time.sleep(0.2)
  assert psutil.pid_exists(running.pid)
  began = time.monotonic()
  process.close_all([running, environment])
  assert time.monotonic() - began < 4
  assert not psutil.wait_procs([worker], timeout=10)[1]


def test_what_a_killed_worker_leaves_behind_is_killed(launcher):
  environment = launcher.start('gym:broken_environments:Parent-v0', _OPTIONS)
  environment.wait_ready(60)
  children = psutil.Process(environment.pid).children()
  assert len(children) == 1
  os.kill(environment.pid, signal.SIGKILL)
  gone, _ = psutil.wait_procs(children, timeout=10)
  assert gone


def test_close_ends_workers_that_were_not_closed(launcher, broken):
  environments = [
    launcher.start(f'gym:broken_environments:{name}-v0', _OPTIONS)
    for name in ('Steady', 'SleepsAtReset', 'HangsAtReset', 'SleepsAtMake')
  ]
  for environment in environments[:3]:
    environment.wait_ready(60)
  time.sleep(0.5)
  family = psutil.Process(launcher._process.pid).children()
  assert len(family) == 4
  began = time.monotonic()
  launcher.close()
  assert time.monotonic() - began < 8
  assert not psutil.wait_procs(family, timeout=5)[1]
  assert (broken / str(environments[0].pid)).exists()
  assert (broken / str(environments[1].pid)).exists()
  process.close_all(environments)


def test_idle_launcher_uses_no_time(launcher):
  environment = launcher.start(_STEADY, _OPTIONS)
  environment.wait_ready(60)
  process.close_all([environment])
  time.sleep(0.5)
  times = psutil.Process(launcher._process.pid).cpu_times()
  time.sleep(1)
  assert psutil.Process(launcher._process.pid).cpu_times() == times
