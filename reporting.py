"""Measures a run and tells of it: CSV files, TensorBoard, one progress line."""

import collections
import math
import pathlib
import threading
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from impala import (
  actor_pool,
  csv_log,
  disk,
  learner,
  progress,
  structures,
  time_shares,
  training_score,
)

METRICS_FIELDS = (
  'learner_steps',
  'environment_frames',
  'seconds',
  'frames_per_second',
  'episode_return',
  'episode_length',
  *learner.Update._fields,
  'batch_fill',
  'learner_wait',
  'actor_wait',
  'environment_wait',
  'inference_wait',
  'restarts',
  'human_normalised_score',
  'capped_human_normalised_score',
)
EPISODES_FIELDS = ('level', 'return', 'length', 'environment_frames')
_WINDOW = 100  # Episodes that means are taken over.


class Reporter:
  """Gathers what the learner's thread tells and reports when asked to.

  Thread-safe between `add` and all else.
  """

  def __init__(
    self,
    logdir,
    frames: int,
    total_frames: int,
    levels: list[str],
    read_totals: Callable[[], actor_pool.Totals],
    line: progress.ProgressLine,
  ):
    """Opens the files in `logdir`, to go on at `frames`.

    Args:
      logdir: Of the run.
      frames: Environment frames that earlier processes have learned from.
      total_frames: Where the run ends.
      levels: Each actor's level is its index's, round robin.
      read_totals: Reads the actors' counts.
      line: Shows the progress.

    Raises:
      UserError: The disk is full or refuses.
    """
    self._logdir = pathlib.Path(logdir)
    with disk.writing(logdir):
      self._metrics = csv_log.CsvLog(
        self._logdir / 'metrics.csv',
        METRICS_FIELDS,
        frames,
        'environment_frames',
        past=1,
      )
      self._episodes = csv_log.CsvLog(
        self._logdir / 'episodes.csv',
        EPISODES_FIELDS,
        frames,
        'environment_frames',
        past=_WINDOW,
      )
      self._summaries = tf.summary.create_file_writer(str(logdir))
    self._total_frames = total_frames
    self._levels = levels
    self._read_totals = read_totals
    self._line = line
    self._recent = collections.deque(
      (
        (float(row['return']), int(row['length']))
        for row in self._episodes.past
      ),
      maxlen=_WINDOW,
    )
    past = self._metrics.past
    self._past_seconds = float(past[-1]['seconds']) if past else 0.0
    self._score = training_score.TrainingScore()
    self._began = self._reported = time.monotonic()
    self._start_frames = self._reported_frames = self._frames = frames
    self._totals = self._start_totals = read_totals()
    self._lock = threading.Lock()
    # Guarded by the lock.
    self._updates = []
    self._ended = []
    self._learner_steps = 0
    self._updated = self._began
    self._waiting = self._working = 0.0
    self._all_waiting = self._all_working = 0.0

  def add(
    self,
    batch: structures.Trajectory,
    update: learner.Update,
    learner_steps: int,
    frames: int,
    waiting: float,
    working: float,
  ) -> None:
    """Takes note of an update and of the episodes that its batch ends.

    Args:
      batch: What was learned from.
      update: What came of it.
      learner_steps: Updates so far.
      frames: Environment frames so far.
      waiting: Seconds that the learner waited for the batch.
      working: Seconds that it took to learn.
    """
    info = batch.env_outputs.info
    over = info.episode_over.numpy()[1:]
    ended = []
    if over.any():
      returns = info.episode_return.numpy()[1:]
      lengths = info.episode_step.numpy()[1:]
      actors = batch.actor.numpy()
      ended = [
        {
          'level': self._levels[actors[b] % len(self._levels)],
          'return': float(returns[t, b]),
          'length': int(lengths[t, b]),
          'environment_frames': frames,
        }
        for t, b in np.argwhere(over)
      ]
    scalars = np.array([float(value) for value in update])
    with self._lock:
      self._updates.append(scalars)
      self._ended.extend(ended)
      self._learner_steps, self._frames = learner_steps, frames
      self._updated = time.monotonic()
      self._waiting += waiting
      self._working += working

  def report(self, last: bool = False) -> None:
    """Writes a row of metrics and the episodes since the last report.

    Args:
      last: Whether no other report follows.

    Raises:
      UserError: The disk is full or refuses.
    """
    with self._lock:
      updates, self._updates = self._updates, []
      ended, self._ended = self._ended, []
      steps, frames = self._learner_steps, self._frames
      waiting, self._waiting = self._waiting, 0.0
      working, self._working = self._working, 0.0
      # What follows the last update is not training.
      now = self._updated if last and updates else time.monotonic()
    self._all_waiting += waiting
    self._all_working += working
    totals = self._read_totals()
    elapsed = max(now - self._reported, 1e-9)
    self._recent.extend((e['return'], e['length']) for e in ended)
    mean_return, mean_length = (
      np.mean(self._recent, axis=0) if self._recent else (None, None)
    )
    rate = (frames - self._reported_frames) / elapsed
    if updates:
      row = {
        'learner_steps': steps,
        'environment_frames': frames,
        'seconds': self._past_seconds + now - self._began,
        'frames_per_second': rate,
        'episode_return': mean_return,
        'episode_length': mean_length,
        **dict(
          zip(learner.Update._fields, np.mean(updates, axis=0), strict=True)
        ),
        **time_shares.time_shares(
          totals, self._totals, waiting, working, elapsed
        ),
        'restarts': totals.restarts,
        **(self._score_of(ended) or {}),
      }
      with disk.writing(self._logdir):
        self._write(row, ended)
    self._reported, self._reported_frames = now, frames
    self._totals = totals
    self._show(now, frames, rate, mean_return, last)

  def limiting_factor(self) -> str:
    """Says what limited the whole run, since this process began."""
    shares = time_shares.time_shares(
      self._read_totals(),
      self._start_totals,
      self._all_waiting,
      self._all_working,
      time.monotonic() - self._began,
    )
    return time_shares.limiting_factor(
      **{name: shares[name] for name in shares if name.endswith('_wait')}
    )

  def close(self) -> None:
    """Closes all files.

    Raises:
      UserError: The disk is full or refuses.
    """
    with disk.writing(self._logdir):
      self._metrics.close()
      self._episodes.close()
      self._summaries.close()

  def _score_of(self, ended):
    """The newest score of the suite that `ended` completes, if any."""
    score = None
    for episode in ended:
      score = self._score.add(episode['level'], episode['return']) or score
    return score and {
      'human_normalised_score': score.mean,
      'capped_human_normalised_score': score.mean_capped,
    }

  def _write(self, row, ended):
    rounded = {
      name: f'{value:.6g}' if isinstance(value, float) else value
      for name, value in row.items()
    }
    self._metrics.write([rounded])
    self._episodes.write(ended)
    with self._summaries.as_default(step=row['environment_frames']):
      for name, value in row.items():
        if value is not None:
          tf.summary.scalar(name, value)
      for episode in ended:
        level = episode['level'].replace(':', '_')
        tf.summary.scalar(f'{level}/episode_return', episode['return'])
        tf.summary.scalar(f'{level}/episode_length', episode['length'])
      self._summaries.flush()

  def _show(self, now, frames, rate, mean_return, last):
    learned = frames - self._start_frames
    speed = learned / max(now - self._began, 1e-9)
    left = self._total_frames - frames
    seconds_left = math.ceil(left / speed) if speed and left > 0 else None
    if left <= 0:
      seconds_left = 0
    line = progress.format_line(
      frames, self._total_frames, rate, mean_return, seconds_left
    )
    self._line.show(line, last)
