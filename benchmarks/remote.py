"""Training with remote actors beside training in one process: CPU, frames/s.

The same training in turns, as users run it: all in one process, and a learner
with actor processes over loopback, which share the environments. What is told
is CPU milliseconds an agent step of all processes together, and frames a
second, on the same cores. Smaller actor processes have smaller inference
batches, which cost more by themselves. From the repository's root:

  python -m impala.benchmarks.remote
"""

import contextlib
import csv
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import psutil
from absl import app, flags

from impala.benchmarks import machine

FLAGS = flags.FLAGS
flags.DEFINE_string('network', 'shallow', 'What to act with.')
flags.DEFINE_list('actor_processes', '1,4', 'How many, in turns.')
flags.DEFINE_integer('environments', 16, 'Of all actors.')
flags.DEFINE_integer('batch_size', 8, 'Unrolls in a batch.')
flags.DEFINE_integer('unroll_length', 20, 'Agent steps in an unroll.')
flags.DEFINE_float('warm_seconds', 6.0, 'Of training before a measurement.')
flags.DEFINE_float('seconds', 20.0, 'Of a measurement.')
flags.DEFINE_integer('rounds', 3, 'Of all measurements; medians are told.')
flags.DEFINE_string(
  'output', 'benchmarks/results/remote.json', 'For the results.'
)

_HERE = pathlib.Path(__file__).parent
_ACTION_REPEATS = 4


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
    '--report_interval_secs=1',
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


@contextlib.contextmanager
def _running(commands):
  """Starts processes, and ends them."""
  environment = {**os.environ, 'PYTHONPATH': str(_HERE)}
  processes = [
    psutil.Popen(
      command,
      env=environment,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    for command in commands
  ]
  try:
    yield processes
  finally:
    for process in processes:
      process.terminate()
    for process in processes:
      process.wait(60)


def _cpu_seconds(processes):
  """CPU time of processes and of all below them."""
  total = 0.0
  for process in processes:
    for member in [process, *process.children(recursive=True)]:
      times = member.cpu_times()
      total += times.user + times.system
  return total


def _next_row(logdir, after):
  """Waits for a new row of the metrics; returns all of them."""
  deadline = time.monotonic() + 120
  while time.monotonic() < deadline:
    with contextlib.suppress(FileNotFoundError):
      with (logdir / 'metrics.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
      if len(rows) > after:
        return rows
    time.sleep(0.01)
  raise TimeoutError('The training does not go on.')


def _measure(actor_processes):
  with tempfile.TemporaryDirectory() as temporary:
    logdir = pathlib.Path(temporary) / 'run'
    with _running(_commands(logdir, actor_processes)) as processes:

      def after(seconds):
        """Returns CPU, time and row of the first report after so long."""
        time.sleep(seconds)
        count = len(_next_row(logdir, 0))
        row = _next_row(logdir, count)[-1]
        return _cpu_seconds(processes), time.monotonic(), row

      _next_row(logdir, 0)
      cpu, began, first = after(FLAGS.warm_seconds)
      cpu_then, ended, last = after(FLAGS.seconds)
  frames = int(last['environment_frames']) - int(first['environment_frames'])
  return {
    'cpu_milliseconds_a_step': 1e3
    * (cpu_then - cpu)
    * _ACTION_REPEATS
    / frames,
    'frames_per_second': frames / (ended - began),
    'batch_fill': float(last['batch_fill']),
    'policy_lag': float(last['policy_lag']),
  }


def main(_):
  ways = [0, *map(int, FLAGS.actor_processes)]
  measured = {way: [] for way in ways}
  for _ in range(FLAGS.rounds):
    for way in ways:
      measured[way].append(_measure(way))
      print(way, measured[way][-1], flush=True)
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
