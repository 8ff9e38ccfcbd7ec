"""Training on one machine, put together from its parts."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import time

import tensorflow as tf

from impala import (
  batches,
  checkpoints,
  disk,
  learner,
  learner_thread,
  local_actors,
  plots,
  progress,
  reporting,
  stop_signals,
)
from impala.distributed import groups, remote_pool
from impala.environments import process, protocol, registry
from impala.networks import agent as agents

_POLL_SECONDS = 0.1
_LOST = re.compile('aborted by: (.*?):?$', re.MULTILINE)
_NOT_FINITE = re.compile('(The loss|The gradient) : Tensor had')


def train(config) -> None:
  """Trains until `config.total_environment_frames`, or a signal to stop.

  Args:
    config: Has experiment.py's flags as attributes.

  Raises:
    UserError: What is asked for can't be done; the message has the remedy.
    EnvironmentFailure: A level does not start, or keeps failing.
    KeyboardInterrupt: A signal came before there was anything to save.
  """
  tf.random.set_seed(config.seed)
  logdir = pathlib.Path(config.logdir)
  if config.task > 0:  # The first learner's records are the run's.
    logdir /= f'learner_{config.task}'
  _make_writable(logdir)
  levels = registry.levels(config.level_name)
  past = checkpoints.updates(logdir)
  with contextlib.ExitStack() as cleanup:
    signals = cleanup.enter_context(stop_signals.StopSignals())
    launcher = process.Launcher()
    cleanup.callback(launcher.close)

    start_process = local_actors.make_starter(config, launcher, past)
    # The environments start while the graphs are made. Where they are on other
    # machines, one here tells what they are like.
    local = config.task < 0
    processes = [
      start_process(index) for index in range(config.num_actors if local else 1)
    ]
    cleanup.callback(process.close_all, processes)
    spec = processes[0].wait_ready(config.environment_timeout_secs)

    devices = _learner_devices()
    group = groups.make_group(config, devices)
    signals.listen()  # TensorFlow would have SIGTERM for itself.
    learning, saved = _restore_or_begin(config, logdir, spec, group)
    if learning.frames >= config.total_environment_frames:
      print(
        f'{logdir} has learned from {int(learning.frames)} frames already. A '
        'higher --total_environment_frames goes on, another --logdir starts '
        'anew.'
      )
      return
    _write_config(logdir, config)

    batch_size = config.batch_size // group.size
    if local:
      pool = local_actors.make_pool(
        config,
        config.num_actors,
        learning.agent,
        spec,
        learning.updates,
        start_process,
        # Alone, it alternates with the learner, so that a seed decides all.
        lockstep=config.num_actors == 1,
      )
      take = batches.dequeuer(pool.queue, pool.specs, batch_size)
    else:
      process.close_all(processes)
      pool = remote_pool.make_pool(config, learning, spec, batch_size)
      take = pool.take_batch
    stream = batches.BatchStream(
      take, pool.specs, batch_size, devices[0], pool.permits
    )
    reporter = reporting.Reporter(
      logdir,
      int(learning.frames),
      config.total_environment_frames,
      levels,
      pool.totals,
      progress.ProgressLine(),
    )
    cleanup.callback(reporter.close)
    thread = learner_thread.LearnerThread(
      learning, stream, reporter, saved, config.total_environment_frames
    )
    signals.wait(0)  # From here on, a signal is for `_watch`.
    stream.start()
    thread.start()
    try:
      pool.start(processes)
      _watch(thread, pool, stream, reporter, signals, config)
    finally:
      pool.close()
      thread.stop()
      if thread.error is None:  # What is learned outlives other failures.
        saved.save()
        reporter.report(last=True)
    _tell(logdir, reporter, signals)


def _make_writable(logdir):
  try:
    logdir.mkdir(parents=True, exist_ok=True)
    if not os.access(logdir, os.W_OK):
      raise PermissionError('it is not writable')
  except OSError as error:
    raise protocol.UserError(
      f'--logdir={logdir} cannot be used: {error}. Choose another.'
    ) from error


def _restore_or_begin(config, logdir, spec, group):
  """Makes the learner, as it was when the run stopped, and its checkpoints."""
  with group.scope():
    agent = agents.from_flags(config, spec)
  learning = learner.Learner(
    agent,
    learner.Hyperparameters(
      frames_per_update=(
        config.batch_size * config.unroll_length * config.num_action_repeats
      ),
      lambda_=config.vtrace_lambda,
      **{
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(learner.Hyperparameters)
        if hasattr(config, field.name)
      },
    ),
    group,
  )
  saved = checkpoints.Elsewhere()
  if config.task <= 0:
    saved = checkpoints.Checkpoints(
      learning, logdir, config.checkpoint_interval_secs, config.checkpoints_kept
    )
  saved.restore()
  group.adopt(learning.variables)
  return learning, saved


def _write_config(logdir, config):
  text = json.dumps(vars(config), indent=2, sort_keys=True)
  with disk.writing(logdir):
    (logdir / 'config.json').write_text(text + '\n', encoding='utf-8')


def _learner_devices():
  gpus = tf.config.list_physical_devices('GPU')
  return [f'/gpu:{index}' for index in range(len(gpus))] or ['/cpu:0']


def _watch(thread, pool, stream, reporter, signals, config):
  """Reports until the learner is done, a signal comes or something fails."""
  report_at = time.monotonic() + config.report_interval_secs
  while not thread.done.is_set() and not signals.wait(_POLL_SECONDS):
    if pool.error is not None:
      raise pool.error
    if time.monotonic() >= report_at:
      reporter.report()
      # Not all at once that a process missed while it was stopped.
      report_at = time.monotonic() + config.report_interval_secs
  if stream.error is not None:  # It has ended the learner, too.
    raise stream.error
  # TensorFlow's message has a stack trace above what is told.
  if not_finite := _NOT_FINITE.search(str(thread.error)):
    raise protocol.UserError(
      f'{not_finite[1]} is no longer finite. A lower --learning_rate or a '
      '--gradient_clipping helps, unless the environment gives such rewards. '
      f'The last checkpoint is kept in {config.logdir}.'
    ) from thread.error
  several = config.task >= 0 and len(config.learner_hosts) > 1
  if isinstance(thread.error, tf.errors.OpError) and several:
    lost = _LOST.search(str(thread.error))
    reason = lost[1] if lost else disk.first_line(thread.error)
    raise protocol.UserError(
      f'Another learner is gone ({reason}): start all learners again, and they '
      'resume from the last checkpoint.'
    ) from thread.error
  if thread.error is not None:
    raise thread.error


def _tell(logdir, reporter, signals):
  """Says how the run ended and where its results are."""
  print(reporter.limiting_factor())
  with disk.writing(logdir):
    curve = plots.learning_curve(logdir)
  if curve is not None:
    print(f'Learning curve: {curve}')
  if checkpoint := checkpoints.newest(logdir):
    print(f'Checkpoint: {checkpoint}')
  if signals.received:
    print(f'Stopped by {signals.received}; the same command resumes.')
