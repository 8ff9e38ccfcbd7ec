"""Learner and actors as processes, as users run them."""

import csv
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from impala import experiment

pytestmark = pytest.mark.usefixtures('time_limit')
TIME_LIMIT_SECONDS = 400  # Of many processes, each of which imports TensorFlow.

_ROOT = pathlib.Path(experiment.__file__).parent
_FLAGS = [
  '--level_name=gym:CartPole-v1',
  '--num_action_repeats=1',
  '--unroll_length=20',
  '--batch_size=4',
  '--num_envs=2',
  '--report_interval_secs=0.5',
  '--checkpoint_interval_secs=1',
  '--epsilon=0.01',
]


class _Process:
  """A learner or an actor, whose output is kept in a file."""

  def __init__(self, path, *arguments):
    self._path = path
    with path.open('ab') as output:
      self.process = subprocess.Popen(
        [sys.executable, str(_ROOT / 'experiment.py'), *arguments],
        stdout=output,
        stderr=output,
      )

  def output(self):
    return self._path.read_text(errors='replace')

  def wait_for(self, text, seconds=60, times=1):
    deadline = time.monotonic() + seconds
    while self.output().count(text) < times:
      assert self.process.poll() is None, self.output()
      assert time.monotonic() < deadline, self.output()
      time.sleep(0.05)

  def end(self, number=signal.SIGTERM):
    self.process.send_signal(number)
    return self.process.wait(60)


def _free_address():
  with socket.socket() as free:
    free.bind(('localhost', 0))
    return f'localhost:{free.getsockname()[1]}'


@pytest.fixture
def cluster(tmp_path):
  """Starts processes of one cluster; leaves none behind."""
  address = _free_address()
  started = []

  def start(job, task=0, *more):
    logdir = tmp_path / 'run'
    started.append(
      _Process(
        tmp_path / f'{job}{task}.txt',
        f'--job_name={job}',
        f'--task={task}',
        f'--learner_hosts={address}',
        f'--logdir={logdir}',
        *_FLAGS,
        *more,
      )
    )
    return started[-1]

  start.logdir = tmp_path / 'run'
  yield start
  for process in started:
    if process.process.poll() is None:
      process.process.kill()
      process.process.wait()


def _metrics(logdir):
  path = logdir / 'metrics.csv'
  if not path.exists():
    return []
  with path.open(newline='') as file:
    return list(csv.DictReader(file))


def _frames(logdir):
  rows = _metrics(logdir)
  return int(rows[-1]['environment_frames']) if rows else 0


def _wait_for_frames(logdir, frames, seconds=90):
  deadline = time.monotonic() + seconds
  while _frames(logdir) < frames:
    assert time.monotonic() < deadline
    time.sleep(0.1)


def test_counts_agree_on_both_sides(cluster):
  actors = [cluster('actor', task) for task in range(2)]  # Before the learner.
  learner = cluster('learner', 0, '--total_environment_frames=6000')
  assert learner.process.wait(100) == 0
  for actor in actors:
    assert actor.end() == 0
  row = _metrics(cluster.logdir)[-1]
  learned = int(row['environment_frames']) // 20
  sent = sum(
    int(re.search(r'(\d+) unrolls were sent', actor.output())[1])
    for actor in actors
  )
  received = int(re.search(r'(\d+) unrolls were rec', learner.output())[1])
  # What came in its last moments was neither learned from nor answered: at most
  # one unroll of each environment.
  assert learned <= received and sent <= received <= sent + 4
  assert float(row['batch_fill']) > 0
  assert 0 <= float(row['policy_lag']) < 50
  assert any(float(r['environment_wait']) for r in _metrics(cluster.logdir))


@pytest.mark.slow
def test_a_learner_that_is_killed_and_comes_back(cluster):
  actor = cluster('actor', 0)
  learner = cluster('learner')
  _wait_for_frames(cluster.logdir, 2000)
  while not list(cluster.logdir.glob('ckpt-*.index')):
    time.sleep(0.1)
  learner.process.kill()
  learner.process.wait()
  before = _frames(cluster.logdir)
  actor.wait_for('does not answer')
  time.sleep(1)
  learner = cluster('learner')
  actor.wait_for('answers again')
  _wait_for_frames(cluster.logdir, before + 2000)
  assert learner.end() == 0 and actor.end() == 0


@pytest.mark.slow
def test_an_actor_that_is_killed_and_one_that_is_frozen(cluster):
  learner = cluster('learner')
  actors = [cluster('actor', task) for task in range(3)]
  _wait_for_frames(cluster.logdir, 1000)
  children = psutil.Process(actors[0].process.pid).children(recursive=True)
  actors[0].process.kill()
  actors[0].process.wait()
  actors[1].process.send_signal(signal.SIGSTOP)
  _wait_for_frames(cluster.logdir, _frames(cluster.logdir) + 2000)
  again = cluster('actor', 0)  # Under the same number.
  again.wait_for('welcome', times=2)
  actors[1].process.send_signal(signal.SIGCONT)
  _wait_for_frames(cluster.logdir, _frames(cluster.logdir) + 2000)
  psutil.wait_procs(children, timeout=20)
  assert not [child for child in children if child.is_running()]
  assert learner.end() == 0
  for actor in (actors[1], actors[2], again):
    assert actor.end() == 0


def test_an_actor_of_another_agent_is_refused(cluster):
  learner = cluster('learner')
  learner.wait_for('Actors may connect')
  other = cluster('actor', 0, '--unroll_length=10')
  assert other.process.wait(60) == 1
  last = other.output().splitlines()[-1]
  assert last.startswith('impala: ') and '--unroll_length' in last
  assert learner.end() == 0


def test_an_actor_without_a_learner_can_be_stopped(cluster):
  actor = cluster('actor')
  actor.wait_for('does not answer')
  began = time.monotonic()
  assert actor.end(signal.SIGINT) == 0
  assert time.monotonic() - began < 30
  assert '0 unrolls were sent' in actor.output()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_learner_that_waits_for_others_can_be_stopped(cluster, number):
  hosts = f'--learner_hosts={_free_address()},{_free_address()}'
  learner = cluster('learner', 0, hosts)
  learner.wait_for('Waiting for the other learners')
  time.sleep(0.5)
  assert learner.end(number) == 1
  assert 'stopped before it began' in learner.output()


def test_an_address_in_use(cluster, tmp_path):
  first = cluster('learner')
  first.wait_for('Actors may connect')
  second = cluster('learner', 0, f'--logdir={tmp_path / "other"}')
  assert second.process.wait(60) == 1
  assert 'name another with --learner_hosts' in second.output()
  assert first.end() == 0


@pytest.mark.parametrize('learners', [1, 2])
def test_a_local_cluster(tmp_path, learners):
  port = _free_address().rpartition(':')[2]
  command = [
    sys.executable, '-m', 'impala.distributed.local_cluster', '--actors=2',
    f'--learners={learners}', f'--port={port}', '--', *_FLAGS,
    f'--logdir={tmp_path / "run"}',
  ]  # fmt: skip
  with (tmp_path / 'output').open('wb') as output:
    running = subprocess.Popen(command, stdout=output, stderr=output)
    _wait_for_frames(tmp_path / 'run', 2000)
    children = psutil.Process(running.pid).children(recursive=True)
    assert len(children) >= 2 + learners
    os.kill(running.pid, signal.SIGINT)
    assert running.wait(60) == 0
  gone, alive = psutil.wait_procs(children, timeout=20)
  assert gone and not alive
  assert list((tmp_path / 'run').glob('ckpt-*.index'))


@pytest.mark.slow
def test_two_learners(cluster):
  hosts = f'--learner_hosts={_free_address()},{_free_address()}'
  learners = [cluster('learner', task, hosts) for task in range(2)]
  actors = [cluster('actor', task, hosts) for task in range(2)]
  _wait_for_frames(cluster.logdir, 2000)
  while not list(cluster.logdir.glob('ckpt-*.index')):
    time.sleep(0.1)
  # One that dies ends the other, and both resume.
  learners[1].process.kill()
  learners[1].process.wait()
  assert learners[0].process.wait(90) == 1
  last = learners[0].output().splitlines()[-1]
  assert last.startswith('impala: Another learner is gone')
  assert 'Graph execution error' not in last
  before = _frames(cluster.logdir)
  learners = [cluster('learner', task, hosts) for task in range(2)]
  _wait_for_frames(cluster.logdir, before + 1000)
  # One that is told to stop takes the other with it, and both are well.
  assert learners[1].end() == 0
  assert learners[0].process.wait(60) == 0
  for actor in actors:
    assert actor.end() == 0
  frames = [
    _frames(logdir) for logdir in (cluster.logdir, cluster.logdir / 'learner_1')
  ]
  assert frames[0] == frames[1]
  assert not list((cluster.logdir / 'learner_1').glob('ckpt-*'))


@pytest.mark.slow
@pytest.mark.parametrize('frozen', [0, 1])
def test_two_learners_of_which_one_is_frozen(cluster, frozen):
  hosts = f'--learner_hosts={_free_address()},{_free_address()}'
  learners = [cluster('learner', task, hosts) for task in range(2)]
  actors = [cluster('actor', task, hosts) for task in range(2)]
  _wait_for_frames(cluster.logdir, 2000, seconds=200)
  while not list(cluster.logdir.glob('ckpt-*.index')):
    time.sleep(0.1)
  learners[frozen].process.send_signal(signal.SIGSTOP)
  # TensorFlow misses its heartbeats after ten seconds.
  assert learners[1 - frozen].process.wait(180) == 1
  # The one that is frozen is left behind, and finds that out.
  learners[frozen].process.send_signal(signal.SIGCONT)
  assert learners[frozen].process.wait(180) == 1
  for learner in learners:
    last = learner.output().splitlines()[-1]
    assert last.startswith('impala: Another learner is gone')
    assert 'Graph execution error' not in last
  before = _frames(cluster.logdir)
  learners = [cluster('learner', task, hosts) for task in range(2)]
  _wait_for_frames(cluster.logdir, before + 1000, seconds=200)
  assert learners[1].end() == 0
  assert learners[0].process.wait(60) == 0
  for actor in actors:
    assert actor.end() == 0
