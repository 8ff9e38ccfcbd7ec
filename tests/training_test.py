import csv
import json
import os
import pathlib
import signal
import textwrap
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver

from impala import batches, checkpoints, experiment, reporting

_CARTPOLE = {
  'level_name': 'gym:CartPole-v1',
  'num_actors': 4,
  'batch_size': 4,
  'unroll_length': 20,
  'num_action_repeats': 1,
  'report_interval_secs': 0.5,
  'epsilon': 0.01,
}


def _train(logdir, **options):
  """Runs experiment.py's main in this process."""
  options = {**_CARTPOLE, 'logdir': str(logdir), **options}
  with flagsaver.flagsaver():
    flags.FLAGS(['experiment.py', *(f'--{k}={v}' for k, v in options.items())])
    experiment.main(['experiment.py'])


def _fails(logdir, **options):
  """Runs a training that must fail; returns what it says."""
  with pytest.raises(SystemExit) as caught:
    _train(logdir, **options)
  return caught.value.code


def _read(path):
  with path.open(newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def _saved(logdir):
  """The newest checkpoint's variables, by their path in the learner."""
  reader = tf.train.load_checkpoint(checkpoints.newest(logdir))
  return {
    name.removesuffix('/.ATTRIBUTES/VARIABLE_VALUE'): reader.get_tensor(name)
    for name in reader.get_variable_to_shape_map()
    if name.startswith('learner/')
  }


def test_a_run_and_its_resumption(tmp_path, capsys):
  _train(tmp_path, total_environment_frames=4000)
  output = capsys.readouterr().out
  assert '100.0%' in output and 'Limited by ' in output
  assert f'Learning curve: {tmp_path / "learning_curve.png"}' in output
  assert f'Checkpoint: {tmp_path / "ckpt-50"}' in output
  config = json.loads((tmp_path / 'config.json').read_text())
  assert config['level_name'] == 'gym:CartPole-v1'
  assert config['total_environment_frames'] == 4000
  metrics = _read(tmp_path / 'metrics.csv')
  assert tuple(metrics[-1]) == reporting.METRICS_FIELDS
  assert metrics[-1]['learner_steps'] == '50'
  assert metrics[-1]['environment_frames'] == '4000'
  for row in metrics:
    numbers = [float(value) for value in row.values() if value]
    assert np.isfinite(numbers).all()
    for name in row:
      assert not name.endswith('_wait') or 0 <= float(row[name]) <= 1, name
  episodes = _read(tmp_path / 'episodes.csv')
  assert {row['level'] for row in episodes} == {'gym:CartPole-v1'}
  for row in episodes:  # A frame is worth 1.
    assert float(row['return']) == int(row['length'])
  # All that was learned from, but for the episodes under way.
  assert 4000 - 4 * 500 < sum(int(row['length']) for row in episodes) <= 4000
  assert (tmp_path / 'learning_curve.png').stat().st_size > 9000
  assert list(tmp_path.glob('events.out.tfevents.*'))

  _train(tmp_path, total_environment_frames=4000)
  output = capsys.readouterr().out
  assert 'has learned from 4000 frames already' in output
  assert 'higher --total_environment_frames' in output
  assert _read(tmp_path / 'metrics.csv') == metrics

  _train(tmp_path, total_environment_frames=6000)
  resumed = _read(tmp_path / 'metrics.csv')
  assert resumed[: len(metrics)] == metrics
  assert resumed[-1]['learner_steps'] == '75'
  assert resumed[-1]['environment_frames'] == '6000'
  assert float(resumed[-1]['seconds']) > float(metrics[-1]['seconds'])
  assert _read(tmp_path / 'episodes.csv')[: len(episodes)] == episodes
  assert checkpoints.updates(tmp_path) == 75


def test_one_actor_repeats_a_run(tmp_path, monkeypatch):
  losses = []
  add = reporting.Reporter.add

  def spy(self, batch, update, *args, **kwargs):
    losses[-1].append(float(update.total_loss))
    assert float(update.policy_lag) == 0.0
    return add(self, batch, update, *args, **kwargs)

  monkeypatch.setattr(reporting.Reporter, 'add', spy)
  for run in range(2):
    losses.append([])
    _train(
      tmp_path / str(run),
      num_actors=1,
      batch_size=2,
      unroll_length=8,
      total_environment_frames=20 * 16,
    )
  assert len(losses[0]) == 20 and len(set(losses[0])) == 20
  assert losses[0] == losses[1]
  first, second = (_saved(tmp_path / name) for name in '01')
  assert first.keys() == second.keys()
  for name in first:
    np.testing.assert_array_equal(first[name], second[name], name)

  # Where nothing is learned or forgotten, all is as it was saved.
  losses.append([])
  _train(
    tmp_path / '0',
    num_actors=1,
    batch_size=2,
    unroll_length=8,
    total_environment_frames=25 * 16,
    learning_rate=0,
    decay=1,
  )
  assert len(losses[2]) == 5
  resumed = _saved(tmp_path / '0')
  assert resumed.pop('learner/updates') == 25
  assert resumed.pop('learner/frames') == 25 * 16
  slots = [name for name in resumed if '/mean_squares/' in name]
  assert slots and any(np.any(resumed[name] != 1.0) for name in slots)
  for name in resumed:
    if '/momenta/' not in name:
      np.testing.assert_array_equal(resumed[name], first[name], name)


def _with_stand_in(monkeypatch):
  stand_in = pathlib.Path(__file__).parent / 'stand_in'
  monkeypatch.setenv('PYTHONPATH', str(stand_in), prepend=os.pathsep)
  monkeypatch.setenv('STAND_IN_EPISODE_SECONDS', '1')


def test_deepmind_lab_level(tmp_path, monkeypatch):
  _with_stand_in(monkeypatch)
  _train(
    tmp_path,
    level_name='explore_goal_locations_small',
    num_actors=2,
    batch_size=2,
    num_action_repeats=4,
    total_environment_frames=800,
    level_cache_dir=tmp_path / 'cache',
  )
  episodes = _read(tmp_path / 'episodes.csv')
  assert {row['level'] for row in episodes} == {'explore_goal_locations_small'}
  # A second has 60 frames, 15 steps of the agent.
  assert {row['length'] for row in episodes} == {'15'}
  assert len(episodes) >= 800 // 60 - 2 * 2
  assert _read(tmp_path / 'metrics.csv')[-1]['environment_frames'] == '800'


def test_dmlab30(tmp_path, monkeypatch):
  _with_stand_in(monkeypatch)
  _train(
    tmp_path,
    level_name='dmlab30',
    network='shallow',
    num_actors=4,
    num_action_repeats=4,
    total_environment_frames=3200,
    reward_clipping='soft_asymmetric',
    level_cache_dir=tmp_path / 'cache',
  )
  episodes = _read(tmp_path / 'episodes.csv')
  assert len({row['level'] for row in episodes}) == 4


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_a_run_in_order(tmp_path, capsys, number):
  metrics = tmp_path / 'metrics.csv'

  def interrupt():
    while not metrics.exists() or metrics.read_bytes().count(b'\n') < 2:
      time.sleep(0.05)
    os.kill(os.getpid(), number)

  thread = threading.Thread(target=interrupt, daemon=True)
  thread.start()
  _train(tmp_path)
  thread.join()
  output = capsys.readouterr().out
  assert f'Stopped by {number.name}; the same command resumes.' in output
  last = _read(metrics)[-1]
  assert checkpoints.updates(tmp_path) == int(last['learner_steps']) > 0
  saved = _saved(tmp_path)
  assert saved['learner/frames'] == int(last['environment_frames'])


def test_divergence_is_told_and_the_last_checkpoint_kept(tmp_path):
  _train(tmp_path, total_environment_frames=160)
  message = _fails(tmp_path, learning_rate=1e30)
  assert 'lower --learning_rate' in message and str(tmp_path) in message
  assert 'is no longer finite' in message and '\n' not in message
  assert checkpoints.updates(tmp_path) == 2


def test_what_is_learned_outlives_an_environment_that_fails(
  tmp_path, monkeypatch
):
  (tmp_path / 'failing.py').write_text(
    textwrap.dedent(
      f"""
      import pathlib

      import gymnasium
      from gymnasium.envs.classic_control import cartpole

      _BROKEN = pathlib.Path({str(tmp_path)!r}, 'broken')


      class Failing(cartpole.CartPoleEnv):
        steps = 0

        def step(self, action):
          self.steps += 1
          if self.steps > 200 or _BROKEN.exists():
            _BROKEN.touch()
            raise RuntimeError('out of order')
          return super().step(action)


      gymnasium.register('Failing-v0', Failing)
      """
    )
  )
  monkeypatch.setenv('PYTHONPATH', str(tmp_path), prepend=os.pathsep)
  logdir = tmp_path / 'logdir'
  message = _fails(logdir, level_name='gym:failing:Failing-v0', num_actors=2)
  assert 'out of order' in message
  assert checkpoints.updates(logdir) > 0
  last = _read(logdir / 'metrics.csv')[-1]
  assert int(last['learner_steps']) == checkpoints.updates(logdir)


def test_failure_while_batching_is_no_silent_end(tmp_path, monkeypatch):
  def fail(*_):
    raise ZeroDivisionError('a bug')

  monkeypatch.setattr(batches, 'stack', fail)
  with pytest.raises(ZeroDivisionError, match='a bug'):
    _train(tmp_path)


def test_full_disk_is_told(small_disk):
  message = _fails(small_disk, total_environment_frames=800)
  assert 'No space' in message and 'Free space' in message


@pytest.mark.slow
def test_cartpole_is_learned(tmp_path):
  _train(
    tmp_path,
    num_actors=8,
    batch_size=8,
    total_environment_frames=130_000,
    learning_rate=0.005,
    entropy_cost=0.005,
  )
  assert float(_read(tmp_path / 'metrics.csv')[-1]['episode_return']) > 120
