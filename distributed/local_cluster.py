"""Learners and actors, each a process of this machine, in one terminal.

  python -m impala.distributed.local_cluster --learners=1 --actors=4 -- \
      --flagfile=configs/quickstart.flags --num_envs=4 --logdir=runs/cluster

What follows `--` goes to all of them. The end of the first learner, or SIGINT
or SIGTERM here, ends them all.
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
flags.DEFINE_integer('learners', 1, 'Learner processes.', 1)
flags.DEFINE_integer('port', 8470, 'The first that learners listen at.', 1)

_EXPERIMENT = pathlib.Path(__file__).parent.parent / 'experiment.py'
_POLL_SECONDS = 0.2
_GRACE_SECONDS = 60.0  # To save in.
_PR_SET_PDEATHSIG = 1


def _with_parent():
  """Ends this process when its parent ends, however that does."""
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _start(job, task, arguments):
  # A learner has two ports.
  hosts = (f'localhost:{FLAGS.port + 2 * k}' for k in range(FLAGS.learners))
  return subprocess.Popen(
    [
      sys.executable,
      str(_EXPERIMENT),
      f'--job_name={job}',
      f'--task={task}',
      f'--learner_hosts={",".join(hosts)}',
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
  """Runs the cluster; returns the first learner's exit code."""
  if FLAGS.actors < FLAGS.learners:
    sys.exit('impala: each of --learners needs one of --actors at least.')
  with stop_signals.StopSignals() as signals:
    signals.wait(0)  # From here on, signals are waited for.
    learners = [_start('learner', k, argv[1:]) for k in range(FLAGS.learners)]
    actors = [_start('actor', k, argv[1:]) for k in range(FLAGS.actors)]
    try:
      while learners[0].poll() is None and not signals.wait(_POLL_SECONDS):
        if all(actor.poll() is not None for actor in actors):
          print('impala: all actors have ended.', file=sys.stderr)
          break
    finally:
      _end(learners)  # The first may save while actors wait.
      _end(actors)
  return learners[0].returncode


if __name__ == '__main__':
  app.run(main)
