import contextlib
import csv
import io

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

from impala import (
  actor_pool,
  learner,
  progress,
  reporting,
  structures,
  time_shares,
)
from impala.environments import protocol

_CONTRACT = {
  'learner_steps', 'environment_frames', 'seconds', 'frames_per_second',
  'episode_return', 'episode_length', 'total_loss', 'policy_gradient_loss',
  'baseline_loss', 'entropy_loss', 'learning_rate', 'policy_lag', 'batch_fill',
  'learner_wait', 'actor_wait',
}  # fmt: skip
_NONE = actor_pool.Totals(2, 0, 0, 0.0, 0.0, 0.0, 0)


class _Run:
  """A reporter, and the counts that it would be told of."""

  def __init__(self, logdir, frames=0, levels=('level',)):
    self.totals = _NONE
    self.output = io.StringIO()
    self.frames = frames
    self.steps = frames // 10
    self.reporter = reporting.Reporter(
      logdir,
      frames,
      1000,
      levels,
      lambda: self.totals,
      progress.ProgressLine(self.output),
    )

  def learn(self, episodes=(), scale=1.0, actors=(0, 1), entries=4):
    """Adds an update whose batch has `episodes`: (t, b, return, length)."""
    shape = (entries, len(actors))
    info = structures.StepOutputInfo(
      np.full(shape, 99, np.float32), np.full(shape, 9), np.zeros(shape, bool)
    )
    for t, b, episode_return, length in episodes:
      info.episode_return[t, b] = episode_return
      info.episode_step[t, b] = length
      info.episode_over[t, b] = True
    done = np.ones(shape, bool)  # As lost lives: no episode ends by it.
    info = tf.nest.map_structure(tf.constant, info)
    outputs = structures.StepOutput(None, info, tf.constant(done), None)
    batch = structures.Trajectory(
      tf.constant(actors), None, None, outputs, None
    )
    update = [
      tf.constant(scale * (i + 1)) for i in range(len(learner.Update._fields))
    ]
    self.frames += 10
    self.steps += 1
    self.reporter.add(
      batch, learner.Update(*update), self.steps, self.frames, 1.0, 3.0
    )


def _read(path):
  with path.open(newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def _scalars(logdir):
  """Tags and their (step, value)s, of all event files."""
  events = event_accumulator.EventAccumulator(
    str(logdir), {event_accumulator.TENSORS: 0}
  )
  events.Reload()
  return {
    tag: [
      (event.step, float(tf.make_ndarray(event.tensor_proto)))
      for event in events.Tensors(tag)
    ]
    for tag in events.Tags()['tensors']
  }


def test_rows_have_all_columns_of_the_contract(tmp_path):
  assert set(reporting.METRICS_FIELDS) >= _CONTRACT
  run = _Run(tmp_path)
  run.learn()
  run.totals = actor_pool.Totals(2, 4, 10, 0.1, 0.2, 0.3, 1)
  run.reporter.report()
  (row,) = _read(tmp_path / 'metrics.csv')
  assert tuple(row) == reporting.METRICS_FIELDS
  # No episode has ended yet.
  empty = [name for name in row if not row[name]]
  assert empty == [
    'episode_return',
    'episode_length',
    'human_normalised_score',  # Of DMLab-30 alone.
    'capped_human_normalised_score',
  ]
  assert (row['learner_steps'], row['environment_frames']) == ('1', '10')
  assert float(row['batch_fill']) == 2.5
  assert float(row['learner_wait']) == 0.25
  assert row['restarts'] == '1'
  assert _read(tmp_path / 'episodes.csv') == []


def test_rows_are_means_since_the_last(tmp_path, monkeypatch):
  now = [100.0]
  monkeypatch.setattr(reporting.time, 'monotonic', lambda: now[0])
  run = _Run(tmp_path)
  run.learn(scale=1.0)
  run.learn(scale=2.0)
  now[0] = 110.0
  run.totals = actor_pool.Totals(2, 10, 20, 2.0, 5.0, 1.0, 0)
  run.reporter.report()
  run.reporter.report()  # Nothing new: no row.
  run.learn(scale=7.0)
  now[0] = 115.0
  run.totals = actor_pool.Totals(2, 11, 23, 2.0, 10.0, 6.0, 0)
  run.reporter.report()
  first, second = _read(tmp_path / 'metrics.csv')
  for i, name in enumerate(learner.Update._fields):
    assert float(first[name]) == 1.5 * (i + 1)
    assert float(second[name]) == 7.0 * (i + 1)
  names = ('seconds', 'frames_per_second', 'batch_fill')
  assert [float(first[name]) for name in names] == [10.0, 2.0, 2.0]
  # Two actors had 20 s, then 10 s.
  names = ('inference_wait', 'environment_wait', 'actor_wait')
  assert [float(first[name]) for name in names] == [0.1, 0.25, 0.05]
  assert [float(second[name]) for name in names] == [0.0, 0.5, 0.5]
  assert float(second['seconds']) == 15.0
  # Of the whole run: the learner waited 3 s of 12.
  assert run.reporter.limiting_factor() == time_shares.limiting_factor(
    0.25, 0.2, 1 / 3, 2 / 30
  )


def test_episodes(tmp_path):
  run = _Run(tmp_path, levels=['lt_chasm', 'gym:CartPole-v1'])
  # An entry 0 was the last entry of the batch before.
  run.learn([(0, 0, 5.0, 50), (1, 0, -1.5, 10), (3, 1, 2.0, 20)], actors=(3, 2))
  run.learn([(2, 0, 4.0, 30)], actors=(4, 1))
  run.reporter.report()
  rows = [tuple(row.values()) for row in _read(tmp_path / 'episodes.csv')]
  assert rows == [
    ('gym:CartPole-v1', '-1.5', '10', '10'),
    ('lt_chasm', '2.0', '20', '10'),
    ('lt_chasm', '4.0', '30', '20'),
  ]
  (row,) = _read(tmp_path / 'metrics.csv')
  assert float(row['episode_return']) == pytest.approx(1.5)
  assert float(row['episode_length']) == 20.0


def test_means_are_over_the_last_hundred_episodes(tmp_path):
  run = _Run(tmp_path)
  for number in range(150):
    run.learn([(1, 0, number, 2 * number)], actors=(0,))
  run.reporter.report()
  (row,) = _read(tmp_path / 'metrics.csv')
  assert float(row['episode_return']) == np.mean(range(50, 150))
  assert float(row['episode_length']) == 2 * np.mean(range(50, 150))


def test_tensorboard(tmp_path):
  run = _Run(tmp_path, levels=['gym:CartPole-v1'])
  run.learn()
  run.reporter.report()
  run.learn([(1, 0, 8.0, 12), (2, 1, 9.0, 14)])
  run.reporter.report()
  # Readable while the run goes on.
  scalars = _scalars(tmp_path)
  assert scalars['learner_steps'] == [(10, 1.0), (20, 2.0)]
  assert scalars['episode_return'] == [(20, 8.5)]
  assert scalars['gym_CartPole-v1/episode_return'] == [(20, 8.0), (20, 9.0)]
  assert scalars['gym_CartPole-v1/episode_length'] == [(20, 12.0), (20, 14.0)]
  assert set(scalars) >= _CONTRACT


def test_resumes(tmp_path, monkeypatch):
  now = [100.0]
  monkeypatch.setattr(reporting.time, 'monotonic', lambda: now[0])
  run = _Run(tmp_path)
  for number in range(4):
    run.learn([(1, 0, number, 10)])
    now[0] += 10
    run.reporter.report(last=number == 3)
  run.reporter.close()
  # The checkpoint is of the second row.
  now[0] = 5000.0
  run = _Run(tmp_path, frames=20)
  run.learn([(1, 0, 8.0, 40)])
  now[0] += 5
  run.reporter.report()
  rows = _read(tmp_path / 'metrics.csv')
  assert [row['environment_frames'] for row in rows] == ['10', '20', '30']
  assert [float(row['seconds']) for row in rows] == [10.0, 20.0, 25.0]
  assert float(rows[-1]['frames_per_second']) == 2.0
  assert float(rows[-1]['episode_return']) == pytest.approx((0 + 1 + 8) / 3)
  assert float(rows[-1]['episode_length']) == 20.0
  frames = [r['environment_frames'] for r in _read(tmp_path / 'episodes.csv')]
  assert frames == ['10', '20', '30']


def test_progress_line(tmp_path, monkeypatch):
  now = [100.0]
  monkeypatch.setattr(reporting.time, 'monotonic', lambda: now[0])
  run = _Run(tmp_path, frames=500)
  run.reporter.report()
  now[0] += 10.0
  for _ in range(10):
    run.learn()
  now[0] += 5.0  # What follows the last update is not training.
  run.reporter.report(last=True)
  first, last = run.output.getvalue().splitlines()
  assert '50.0%  500/1.0k frames  0 frames/s  return -  - left' in first
  # 10 frames/s in this process.
  assert '60.0%  600/1.0k frames  10 frames/s  return -  0:40 left' in last


def test_full_disk(small_disk):
  run = _Run(small_disk)
  run.learn([(1, 0, 1.0, 10)])
  run.reporter.report()
  filler = small_disk / 'filler'
  with pytest.raises(OSError, match='No space'):
    filler.write_bytes(bytes(1 << 20))
  # What is left of the last pages fills up.
  with pytest.raises(protocol.UserError, match=r'No space.*Free space'):
    for _ in range(1000):
      run.learn([(1, 0, 1.0, 10)])
      run.reporter.report()
  # Whether it can be closed depends on which file was the one.
  with contextlib.suppress(protocol.UserError):
    run.reporter.close()
  # As the remedy says, from any checkpoint.
  filler.unlink()
  before = [
    len(_read(small_disk / f'{n}.csv')) for n in ('metrics', 'episodes')
  ]
  assert min(before) > 1
  resumed = _Run(small_disk, frames=10)
  resumed.learn([(1, 0, 3.0, 10)])
  resumed.reporter.report()
  for name in ('metrics', 'episodes'):
    rows = _read(small_disk / f'{name}.csv')
    assert [row['environment_frames'] for row in rows] == ['10', '20']
  resumed.reporter.close()


def test_unusable_directory(tmp_path):
  (tmp_path / 'metrics.csv').mkdir()
  with pytest.raises(protocol.UserError, match=r'metrics\.csv'):
    _Run(tmp_path)
