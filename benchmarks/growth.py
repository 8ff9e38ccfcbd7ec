"""How a run starts and grows with its actors, on a costless environment.

For each number of actors a training run in a process of its own, for some
seconds: time to the first learner step, frames a second after it, memory. The
rates are to be compared within one table, since the machine may be shared.

  python -m impala.benchmarks.growth --output=benchmarks/results/growth.json
"""

import csv
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import psutil
from absl import app, flags

from impala.benchmarks import machine

FLAGS = flags.FLAGS
flags.DEFINE_list('actors', '8,16,48,128', 'Numbers of actors.')
flags.DEFINE_integer('rounds', 3, 'Of all numbers, in turns.')
flags.DEFINE_float('seconds', 20.0, 'Of a run, from its first report.')
flags.DEFINE_string('output', None, 'A JSON file for the results.')

_ROOT = pathlib.Path(__file__).parent.parent


def _rows(path):
  if not path.exists():
    return []
  with path.open(newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def _measure(actors):
  here = str(pathlib.Path(__file__).parent)
  with tempfile.TemporaryDirectory() as logdir:
    began = time.monotonic()
    run = subprocess.Popen(
      [
        sys.executable,
        _ROOT / 'experiment.py',
        '--level_name=gym:costless:Costless-v0',
        '--network=shallow',
        f'--num_actors={actors}',
        '--batch_size=8',
        '--unroll_length=20',
        '--inference_minimum_batch=4',
        '--report_interval_secs=1',
        f'--logdir={logdir}',
      ],
      env={**os.environ, 'PYTHONPATH': here},
      stdout=subprocess.DEVNULL,
    )
    metrics = pathlib.Path(logdir, 'metrics.csv')
    try:
      while not _rows(metrics):
        if run.poll() is not None:
          raise RuntimeError('The run ended; see its messages above.')
        time.sleep(0.1)
      first_step = time.monotonic() - began
      time.sleep(FLAGS.seconds)
      main = psutil.Process(run.pid)
      workers = [
        child
        for child in main.children(recursive=True)
        if child.parent().pid != run.pid  # The launcher's children.
      ]
      memory = main.memory_info().rss
      private = [worker.memory_full_info().uss for worker in workers]
    finally:
      run.send_signal(signal.SIGTERM)
      run.wait(60)
    rows = _rows(metrics)
  warm = rows[len(rows) // 3 : -1]
  frames = [int(row['environment_frames']) for row in warm]
  seconds = [float(row['seconds']) for row in warm]
  return {
    'actors': actors,
    'seconds_to_first_report': round(first_step, 1),
    'frames_per_second': round(
      (frames[-1] - frames[0]) / (seconds[-1] - seconds[0])
    ),
    'main_process_mb': round(memory / 2**20),
    'private_mb_an_environment': round(
      sum(private) / max(len(private), 1) / 2**20, 1
    ),
  }


def main(_):
  results = []
  for _ in range(FLAGS.rounds):
    for actors in FLAGS.actors:
      results.append(_measure(int(actors)))
      print(results[-1], flush=True)
  if FLAGS.output:
    machine.write(FLAGS.output, results)


if __name__ == '__main__':
  app.run(main)
