"""Training with remote actors beside training in one process: CPU, frames/s.

The same training as users run it: all in one process, and a learner with actor
processes over loopback, which share the environments. They go on in turns of a
few seconds, the others being stopped: what else the machine does falls on all
alike. What is told is CPU milliseconds an agent step of all processes together,
and frames a second, on the same cores. Smaller actor processes have smaller
inference batches, which cost more by themselves. From the repository's root:

  python -m impala.benchmarks.remote
"""

import contextlib
import csv
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import psutil
from absl import app, flags

from impala.benchmarks import machine

FLAGS = flags.FLAGS
flags.DEFINE_string('network', 'shallow', 'What to act with.')
flags.DEFINE_list('actor_processes', '1,4', 'How many, in turns.')
flags.DEFINE_integer('environments', 16, 'Of all actors.')
flags.DEFINE_integer('batch_size', 8, 'Unrolls in a batch.')
flags.DEFINE_integer('unroll_length', 20, 'Agent steps in an unroll.')
flags.DEFINE_float('seconds', 2.0, 'Of a turn.')
flags.DEFINE_integer('turns', 10, 'Of each training, in a measurement.')
flags.DEFINE_integer('rounds', 3, 'Of new processes; medians are told.')
flags.DEFINE_string(
  'output', 'benchmarks/results/remote.json', 'For the results.'
)

_HERE = pathlib.Path(__file__).parent
_ACTION_REPEATS = 4
_WARM_ROWS = 4


def _command(logdir, *arguments):
  return [
    sys.executable,
    str(_HERE.parent / 'experiment.py'),
    '--level_name=gym:costless:Costless-v0',
    f'--network={FLAGS.network}',
    f'--batch_size={FLAGS.batch_size}',
    f'--unroll_length={FLAGS.unroll_length}',
    f'--num_action_repeats={_ACTION_REPEATS}',
    f'--logdir={logdir}',
    '--report_interval_secs=2',
    *arguments,
  ]


def _commands(logdir, actor_processes):
  """Returns the commands of one training; 0 for all in one process."""
  if not actor_processes:
    return [_command(logdir, f'--num_actors={FLAGS.environments}')]
  with socket.socket() as free:
    free.bind(('localhost', 0))
    hosts = f'--learner_hosts=localhost:{free.getsockname()[1]}'
  share = FLAGS.environments // actor_processes
  return [
    _command(logdir, hosts, '--job_name=learner', '--task=0'),
    *(
      _command(
        logdir, hosts, '--job_name=actor', f'--task={k}', f'--num_envs={share}'
      )
      for k in range(actor_processes)
    ),
  ]


class _Training:
  """Processes that train, unless they are stopped."""

  def __init__(self, actor_processes, folder):
    self._logdir = folder / f'{actor_processes}_actor_processes'
    environment = {**os.environ, 'PYTHONPATH': str(_HERE)}
    self._processes = [
      psutil.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
      )
      for command in _commands(self._logdir, actor_processes)
    ]
    self._seconds = 0.0

  def warm_up(self):
    """Trains until what is made at first use is made."""
    self._wait_for_rows(_WARM_ROWS)
    self._signal(signal.SIGSTOP)

  @contextlib.contextmanager
  def turn(self):
    """A context in which it goes on."""
    began = time.monotonic()
    self._signal(signal.SIGCONT)
    yield
    self._signal(signal.SIGSTOP)
    self._seconds += time.monotonic() - began

  def report(self):
    """Trains to the next report.

    Returns:
      Seconds of CPU and of all turns, frames, and the newest of the metrics.
    """
    with self.turn():
      row = self._wait_for_rows(len(self._rows()) + 2)  # One is due already.
      times = [process.cpu_times() for process in self._members()]
    cpu = sum(time.user + time.system for time in times)
    return cpu, self._seconds, int(row['environment_frames']), row

  def end(self):
    self._signal(signal.SIGCONT)
    for process in self._processes:
      process.terminate()
    for process in self._processes:
      process.wait(60)

  def _members(self):
    for process in self._processes:
      yield process
      yield from process.children(recursive=True)

  def _signal(self, number):
    for process in list(self._members()):
      with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)

  def _wait_for_rows(self, count):
    """Returns the newest row of at least so many of the metrics."""
    deadline = time.monotonic() + 120
    while len(rows := self._rows()) < count:
      if time.monotonic() > deadline:
        raise TimeoutError('The training does not go on.')
      time.sleep(0.01)
    return rows[-1]

  def _rows(self):
    try:
      text = (self._logdir / 'metrics.csv').read_text()
    except FileNotFoundError:
      return []
    return list(csv.DictReader(text[: text.rfind('\n') + 1].splitlines()))


def _measure(ways, folder):
  """Starts trainings and measures them in turns; returns what is told."""
  with contextlib.ExitStack() as ends:
    training = {}
    for way in ways:
      training[way] = _Training(way, folder)
      ends.callback(training[way].end)
      training[way].warm_up()
    before = {way: one.report() for way, one in training.items()}
    for _ in range(FLAGS.turns):
      for one in training.values():
        with one.turn():
          time.sleep(FLAGS.seconds)
    after = {way: one.report() for way, one in training.items()}
  results = {}
  for way in ways:
    row = after[way][3]
    cpu, seconds, frames = np.subtract(after[way][:3], before[way][:3]).tolist()
    results[way] = {
      'cpu_milliseconds_a_step': 1e3 * cpu * _ACTION_REPEATS / frames,
      'frames_per_second': frames / seconds,
      'batch_fill': float(row['batch_fill']),
      'policy_lag': float(row['policy_lag']),
    }
    print(way, results[way], flush=True)
  return results


def main(_):
  ways = [0, *map(int, FLAGS.actor_processes)]
  measured = {way: [] for way in ways}
  for _ in range(FLAGS.rounds):
    with tempfile.TemporaryDirectory() as folder:
      for way, result in _measure(ways, pathlib.Path(folder)).items():
        measured[way].append(result)
  results = []
  for way, rounds in measured.items():
    row = {
      name: round(statistics.median(r[name] for r in rounds), 3)
      for name in rounds[0]
    }
    ratios = [
      remote['cpu_milliseconds_a_step'] / local['cpu_milliseconds_a_step']
      for remote, local in zip(rounds, measured[0], strict=True)
    ]
    row['cpu_beside_one_process'] = round(statistics.median(ratios), 3)
    results.append({'actor_processes': way, **row})
    print(results[-1], flush=True)
  machine.write(FLAGS.output, results)


if __name__ == '__main__':
  app.run(main)
