"""A learner and its actors, each a process of this machine, in one terminal.

  python -m impala.distributed.local_cluster --actors=4 -- \
      --flagfile=configs/quickstart.flags --num_envs=4 --logdir=runs/cluster

What follows `--` goes to all of them. The end of the learner, or SIGINT or
SIGTERM here, ends them all.
"""

import contextlib
import ctypes
import pathlib
import signal
import subprocess
import sys
import threading

from absl import app, flags

from impala import stop_signals

FLAGS = flags.FLAGS
flags.DEFINE_integer('actors', 4, 'Actor processes.', 1)
flags.DEFINE_string('address', 'localhost:8470', "The learner's host:port.")

_EXPERIMENT = pathlib.Path(__file__).parent.parent / 'experiment.py'
_POLL_SECONDS = 0.2
_GRACE_SECONDS = 60.0  # To save in.
_PR_SET_PDEATHSIG = 1


def _with_parent():
  """Ends this process when its parent ends, however that does."""
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _start(job, task, arguments):
  return subprocess.Popen(
    [
      sys.executable,
      str(_EXPERIMENT),
      f'--job_name={job}',
      f'--task={task}',
      f'--learner_hosts={FLAGS.address}',
      *arguments,
    ],
    preexec_fn=_with_parent,
    start_new_session=True,  # Ctrl-C is for this process, which passes it on.
  )


def _end(processes):
  for process in processes:
    with contextlib.suppress(ProcessLookupError):
      process.terminate()
  killer = threading.Timer(
    _GRACE_SECONDS, lambda: [process.kill() for process in processes]
  )
  killer.start()
  for process in processes:
    process.wait()
  killer.cancel()


def main(argv):
  """Runs the cluster; returns the learner's exit code."""
  with stop_signals.StopSignals() as signals:
    signals.wait(0)  # From here on, signals are waited for.
    learner = _start('learner', 0, argv[1:])
    actors = [_start('actor', k, argv[1:]) for k in range(FLAGS.actors)]
    try:
      while learner.poll() is None and not signals.wait(_POLL_SECONDS):
        if all(actor.poll() is not None for actor in actors):
          print('impala: all actors have ended.', file=sys.stderr)
          break
    finally:
      _end([learner])  # It may save while actors wait.
      _end(actors)
  return learner.returncode


if __name__ == '__main__':
  app.run(main)
