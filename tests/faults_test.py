"""What befalls a whole run, as a user has it: `python experiment.py ...`."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver

from impala import checkpoints, experiment

pytestmark = pytest.mark.usefixtures('time_limit', 'broken')

_SECONDS = 60  # For anything; minutes of which are for a busy machine.


class _Run:
  """A run of experiment.py, in a process group as a terminal's job has it."""

  def __init__(self, logdir, level, **options):
    self.logdir = logdir
    options = {
      'level_name': level,
      'num_action_repeats': 1,
      'num_actors': 4,
      'batch_size': 2,
      'unroll_length': 20,
      'report_interval_secs': 0.5,
      'logdir': logdir,
      **options,
    }
    arguments = [f'--{name}={value}' for name, value in options.items()]
    logdir.parent.mkdir(exist_ok=True)
    self._output = logdir.with_suffix('.txt').open('w+', encoding='utf-8')
    self._main = psutil.Popen(
      [sys.executable, experiment.__file__, *arguments],
      stdout=self._output,
      stderr=subprocess.STDOUT,
      env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3'},
      start_new_session=True,
    )

  def family(self):
    return self._main.children(recursive=True)

  def metrics(self):
    try:
      with (self.logdir / 'metrics.csv').open(newline='') as file:
        return list(csv.DictReader(file))
    except FileNotFoundError:
      return []

  def wait_for(self, condition):
    deadline = time.monotonic() + _SECONDS
    while not condition():
      assert self._main.poll() is None, self.output()
      assert time.monotonic() < deadline, self.output()
      time.sleep(0.05)

  def signal(self, number):
    """As Ctrl-C does: to the whole group."""
    os.killpg(self._main.pid, number)

  def wait(self):
    """Returns the exit code; no process may be left."""
    family = self.family()
    code = self._main.wait(timeout=_SECONDS)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    return code

  def output(self):
    self._output.seek(0)
    return self._output.read()

  def close(self):
    for process in (
      [*self.family(), self._main] if self._main.is_running() else []
    ):
      process.kill()
    self._main.wait()
    self._output.close()


@pytest.fixture
def run(tmp_path):
  """Starts runs."""
  runs = []

  def start(level, name='logdir', **options):
    runs.append(_Run(tmp_path / name, level, **options))
    return runs[-1]

  yield start
  for one in runs:
    one.close()


def test_ctrl_c_and_sigterm_save_and_the_same_command_resumes(
  run, nothing_in_shared_memory
):
  frames = 0
  for number in (signal.SIGINT, signal.SIGTERM):
    training = run('gym:CartPole-v1')
    rows = len(training.metrics())
    training.wait_for(lambda rows=rows, t=training: len(t.metrics()) > rows + 1)
    assert len(training.family()) == 1 + 4
    training.signal(number)
    began = time.monotonic()
    assert training.wait() == 0, training.output()
    assert time.monotonic() - began < 20
    output = training.output()
    assert f'Stopped by {number.name}; the same command resumes.' in output
    assert 'Traceback' not in output and 'lost its environment' not in output
    saved = checkpoints.updates(training.logdir)
    assert f'Checkpoint: {training.logdir}/ckpt-{saved}' in output
    last = training.metrics()[-1]
    assert int(last['learner_steps']) == saved
    assert int(last['environment_frames']) == saved * 40 > frames
    assert last['restarts'] == '0'
    frames = saved * 40
  counts = [int(row['environment_frames']) for row in training.metrics()]
  assert counts == sorted(counts)
  nothing_in_shared_memory()


def test_run_goes_on_whatever_its_environments_do_and_sigkill_leaves_nothing(
  run, nothing_in_shared_memory
):
  training = run(
    'gym:broken_environments:AnythingAtRandom-v0', environment_timeout_secs=2
  )
  training.wait_for(
    lambda: training.metrics() and int(training.metrics()[-1]['restarts']) > 8
  )
  family = training.family()
  training.signal(signal.SIGKILL)
  assert training.wait() == -signal.SIGKILL
  _, alive = psutil.wait_procs(family, timeout=10)
  assert not alive
  nothing_in_shared_memory()
  output = training.output()
  assert 'Traceback' not in output.split('lost its environment')[0]
  assert 'gets a new one; the unfinished trajectory is dropped' in output
  assert 'Detected at node' not in output


def test_what_cannot_be_ends_with_its_reason(run):
  # At once, on both cores.
  runs = {
    'gym:No-v0': 'No',
    'nowhere': 'nowhere',
    'gym:broken_at_import:A-v0': 'broken on purpose',
    'gym:broken_environments:SleepsAtMake-v0': 'did not start within 3 s',
    'gym:broken_environments:RaisesAtReset-v0': 'gave no trajectory',
  }
  started = {
    level: run(level, str(index), environment_timeout_secs=3)
    for index, level in enumerate(runs)
  }
  for level, message in runs.items():
    assert started[level].wait() == 1
    output = started[level].output()
    lines = [line for line in output.splitlines() if 'impala: ' in line]
    assert len(lines) == 1, output
    assert message in output
    if not level.startswith('gym:broken'):  # A user's mistake.
      assert message in lines[0]
      assert 'Traceback' not in output
    # Of this program, there is none to see in any case.
    assert 'experiment.py", line' not in output


def test_ctrl_c_while_it_starts(run):
  training = run('gym:broken_environments:SleepsAtMake-v0')
  training.wait_for(lambda: len(training.family()) == 1 + 4)
  training.signal(signal.SIGINT)
  assert training.wait() == 1
  assert 'stopped before it began' in training.output()
  assert 'Traceback' not in training.output()
  assert not list(training.logdir.glob('ckpt*'))


@pytest.mark.parametrize('level', ['doom_basic', 'gym:CartPole-v1'])
def test_one_actor_repeats_a_run(tmp_path, level):
  """In this process, for the time's sake."""
  if level.startswith('doom'):
    pytest.importorskip('vizdoom')
  saved = []
  for name in '12':
    options = {
      'level_name': level,
      'num_actors': 1,
      'batch_size': 2,
      'unroll_length': 5,
      'network': 'shallow',
      'total_environment_frames': 20 * 2 * 5 * 4,
      'logdir': str(tmp_path / name),
    }
    with flagsaver.flagsaver():
      flags.FLAGS(
        ['experiment.py', *(f'--{k}={v}' for k, v in options.items())]
      )
      experiment.main(['experiment.py'])
    reader = tf.train.load_checkpoint(checkpoints.newest(tmp_path / name))
    saved.append(
      {
        key: reader.get_tensor(key)
        for key in reader.get_variable_to_shape_map()
        if key.startswith('learner/')
      }
    )
    assert json.loads((tmp_path / name / 'config.json').read_text())
  assert checkpoints.updates(tmp_path / '1') == 20
  assert saved[0].keys() == saved[1].keys()
  for key in saved[0]:
    np.testing.assert_array_equal(saved[0][key], saved[1][key], key)
  rows = []
  for name in '12':
    with (tmp_path / name / 'metrics.csv').open(newline='') as file:
      rows.append(list(csv.DictReader(file))[-1])
  assert rows[0]['total_loss'] == rows[1]['total_loss']
