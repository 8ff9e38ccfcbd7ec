import csv
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from absl import flags
from absl.testing import flagsaver

from impala import experiment, test_log
from impala.environments import dmlab30

_DICE = 'gym:bandit:Dice-v0'

pytestmark = pytest.mark.usefixtures('time_limit')


def _run(logdir, *arguments, mode='test'):
  """Runs experiment.py's main in this process."""
  with flagsaver.flagsaver():
    flags.FLAGS(
      ['experiment.py', f'--mode={mode}', f'--logdir={logdir}', *arguments]
    )
    experiment.main(['experiment.py'])


def _fails(logdir, *arguments):
  """Runs a test that must fail; returns what it says, in one line."""
  with pytest.raises(SystemExit) as caught:
    _run(logdir, *arguments)
  assert '\n' not in caught.value.code
  return caught.value.code


def _train(logdir, level, *arguments):
  _run(
    logdir,
    f'--level_name={level}',
    '--num_actors=2',
    '--unroll_length=5',
    '--num_action_repeats=1',
    '--network=shallow',
    *arguments,
    mode='train',
  )


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run of a few updates, with three checkpoints."""
  logdir = tmp_path_factory.mktemp('trained')
  stand_in = pathlib.Path(__file__).parent / 'stand_in'
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('PYTHONPATH', str(stand_in), prepend=os.pathsep)
    _train(
      logdir,
      _DICE,
      '--total_environment_frames=200',
      '--checkpoint_interval_secs=0',
    )
  assert len(list(logdir.glob('ckpt-*.index'))) == 3
  return logdir


@pytest.fixture
def logdir(trained, tmp_path, broken):
  """A copy of the run, to be tested."""
  return pathlib.Path(shutil.copytree(trained, tmp_path / 'run'))


def _scores(logdir):
  return json.loads((logdir / 'scores.json').read_text())


def _episodes(logdir):
  with (logdir / 'test_episodes.csv').open(newline='') as file:
    return list(csv.DictReader(file))


def test_scores_of_a_run(logdir, capsys):
  _run(logdir, '--test_num_episodes=7')
  scores = _scores(logdir)
  assert scores['checkpoint'] == 'ckpt-20'
  assert scores['environment_frames'] == 200
  assert (scores['level_name'], scores['suite']) == (_DICE, None)
  row = scores['levels'][_DICE]
  returns = [float(row['return']) for row in _episodes(logdir)]
  assert row['episodes'] == len(returns) == 7
  assert row['mean_return'] == pytest.approx(sum(returns) / 7)
  assert row['mean_length'] == 10
  assert 0 < row['standard_error'] < 3
  with (logdir / 'scores.csv').open(newline='') as file:
    (flat,) = csv.DictReader(file)
  assert flat['level'] == _DICE
  assert float(flat['mean_return']) == row['mean_return']
  said = capsys.readouterr().out
  assert '7/7 episodes' in said and _DICE in said


def test_a_test_repeats_and_goes_on(logdir):
  _run(logdir, '--test_num_episodes=4')
  first = _episodes(logdir)
  _run(logdir, '--test_num_episodes=9')
  more = _episodes(logdir)
  assert more[:4] == first and len(more) == 9
  (logdir / 'test_episodes.csv').unlink()
  _run(logdir, '--test_num_episodes=9', '--num_actors=1')

  def outcomes(rows):
    return sorted((int(row['episode']), row['return']) for row in rows)

  assert outcomes(_episodes(logdir)) == outcomes(more)


def test_what_decides_an_episode_makes_another_test(logdir):
  _run(logdir, '--test_num_episodes=3')
  first = _scores(logdir)
  for other in ('--seed=2', '--greedy', '--num_action_repeats=2'):
    count = len(_episodes(logdir))
    _run(logdir, '--test_num_episodes=3', other)
    assert len(_episodes(logdir)) == count + 3
  _run(logdir, '--test_num_episodes=3')
  assert _scores(logdir) == first
  assert len(_episodes(logdir)) == 12


def test_flags_go_before_those_of_the_training(logdir):
  _run(logdir, '--test_num_episodes=2', '--level_name=gym:bandit:Bandit-v0')
  assert list(_scores(logdir)['levels']) == ['gym:bandit:Bandit-v0']


def test_a_named_checkpoint(logdir):
  _run(logdir, '--test_num_episodes=2', '--checkpoint=ckpt-18')
  assert _scores(logdir)['checkpoint'] == 'ckpt-18'
  assert _scores(logdir)['environment_frames'] == 180
  said = _fails(logdir, '--checkpoint=ckpt-3')
  assert 'ckpt-18, ckpt-19, ckpt-20' in said


def test_tournament(logdir):
  _run(logdir, '--test_num_episodes=2', '--all_checkpoints')
  with (logdir / 'tournament.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  assert [row['environment_frames'] for row in rows] == ['180', '190', '200']
  assert {row['episodes'] for row in rows} == {'2'}
  assert (logdir / 'tournament.png').stat().st_size > 5000
  assert _scores(logdir)['checkpoint'] == 'ckpt-20'


def test_a_signal_keeps_what_was_played(logdir, capsys, monkeypatch):
  episodes = logdir / 'test_episodes.csv'

  def interrupt():
    while not episodes.exists() or episodes.read_bytes().count(b'\n') < 3:
      time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

  thread = threading.Thread(target=interrupt, daemon=True)
  thread.start()
  _run(logdir, '--test_num_episodes=5000')
  thread.join()
  assert 'Stopped by SIGINT' in capsys.readouterr().out
  assert not (logdir / 'scores.json').exists()
  played = len(_episodes(logdir))
  assert 2 <= played < 5000
  _run(logdir, f'--test_num_episodes={played}')
  assert _scores(logdir)['levels'][_DICE]['episodes'] == played


def test_a_damaged_line_costs_its_episode_alone(logdir):
  _run(logdir, '--test_num_episodes=4')
  path = logdir / 'test_episodes.csv'
  first = _scores(logdir)
  lines = path.read_text().splitlines(keepends=True)
  lines[2] = lines[2].replace(',10', ',ten')
  path.write_text(''.join(lines)[:-4])
  _run(logdir, '--test_num_episodes=4')
  assert _scores(logdir) == first


def test_dmlab30(tmp_path, monkeypatch, broken):
  monkeypatch.setenv('STAND_IN_EPISODE_SECONDS', '1')
  cache = f'--level_cache_dir={tmp_path / "cache"}'
  logdir = tmp_path / 'run'
  dataset = f'--dataset_path={tmp_path}'
  _train(
    logdir,
    'dmlab30',
    dataset,
    '--num_action_repeats=4',
    '--total_environment_frames=80',
    cache,
  )
  _run(logdir, '--level_name=dmlab30', '--test_num_episodes=1', cache)
  scores = _scores(logdir)
  assert tuple(scores['levels']) == dmlab30.TEST_LEVELS
  for row in scores['levels'].values():
    assert row['episodes'] == 1 and row['standard_error'] is None
    assert set(row['paper']) == {'impala_experts_deep', 'impala_deep_pbt'}
  suite = scores['suite']
  assert suite['name'] == 'dmlab30'
  returns = {
    level: [row['mean_return']] for level, row in scores['levels'].items()
  }
  for cap, name in ((100, 'mean_capped'), (None, 'mean')):
    assert suite[name] == pytest.approx(
      dmlab30.compute_human_normalized_score(returns, cap)
    )
  first = suite['mean']
  _run(logdir, '--test_num_episodes=1', '--references=scalable_agent', cache)
  assert _scores(logdir)['suite']['mean'] != first


def test_a_run_on_a_level_of_training_is_tested_on_its_held_out_one(
  tmp_path, monkeypatch, broken
):
  monkeypatch.setenv('STAND_IN_EPISODE_SECONDS', '1')
  cache = f'--level_cache_dir={tmp_path / "cache"}'
  level = 'rooms_collect_good_objects_train'
  logdir = tmp_path / 'run'
  _train(logdir, level, '--total_environment_frames=20', cache)
  _run(logdir, '--test_num_episodes=1', cache)
  (tested,) = _scores(logdir)['levels']
  assert tested == 'rooms_collect_good_objects_test'
  # Whoever names it gets it, by the same references.
  _run(logdir, f'--level_name={level}', '--test_num_episodes=1', cache)
  (row,) = _scores(logdir)['levels'].values()
  assert row['human'] == 10


def test_video_of_atari(tmp_path):
  logdir = tmp_path / 'run'
  _train(
    logdir, 'atari_pong', '--network=atari_shallow',
    '--total_environment_frames=20', '--num_action_repeats=4',
  )  # fmt: skip
  level = '--level_name=atari_boxing'  # It lasts two minutes at most.
  said = _fails(logdir, level)
  assert 'cannot be restored' in said and '--network' in said
  shutil.rmtree(logdir)
  _train(
    logdir, 'atari_boxing', '--network=atari_shallow',
    '--total_environment_frames=20', '--num_action_repeats=40',
  )  # fmt: skip
  _run(logdir, '--test_num_episodes=1', '--video', '--video_format=gif')
  (film,) = (logdir / 'videos').iterdir()
  assert film.name == 'atari_boxing-ckpt-1.gif'
  assert film.stat().st_size > 10_000
  row = _scores(logdir)['levels']['atari_boxing']
  assert row['human_normalised_score'] == pytest.approx(
    100 * (row['mean_return'] - 0.1) / (12.1 - 0.1), rel=1e-3
  )


def test_video_needs_images(logdir):
  assert 'needs images' in _fails(logdir, '--video')


def test_an_empty_logdir(tmp_path):
  assert 'has no checkpoint' in _fails(tmp_path)
  assert 'has no checkpoint' in _fails(tmp_path / 'nowhere')
  assert not (tmp_path / 'nowhere').exists()


def test_another_network(logdir):
  said = _fails(logdir, '--level_name=gym:CartPole-v1')
  assert 'cannot be restored' in said


def test_a_missing_level(logdir):
  assert 'NoSuch' in _fails(logdir, '--level_name=gym:NoSuch-v0')


def test_damaged_files(logdir):
  (logdir / 'config.json').write_text('{"level_name": ')
  said = _fails(logdir)
  assert 'config.json is damaged' in said and 'delete it' in said
  (logdir / 'config.json').unlink()
  level = f'--level_name={_DICE}'
  _run(logdir, '--test_num_episodes=1', level, '--num_action_repeats=1')
  data = logdir / 'ckpt-20.data-00000-of-00001'
  data.write_bytes(data.read_bytes()[:100])
  assert 'cannot be restored' in _fails(logdir, level)


def test_flags_of_a_wrong_type(logdir):
  path = logdir / 'config.json'
  config = json.loads(path.read_text())
  path.write_text(json.dumps({**config, 'num_actors': 'many'}))
  assert "num_actors is 'many'" in _fails(logdir)


def test_two_tests_at_once(logdir):
  log = test_log.TestLog(logdir, 'other', 'ckpt-1')
  assert 'Another test' in _fails(logdir)
  log.close()


def test_one_checkpoint_or_all(logdir):
  said = _fails(logdir, '--all_checkpoints', '--checkpoint=ckpt-20')
  assert 'leave --checkpoint out' in said


def test_a_full_disk(logdir):
  _run(logdir, '--test_num_episodes=1')
  path = logdir / 'test_episodes.csv'
  path.write_bytes(path.read_bytes() + b'x\r\n' * 3000)
  code = (
    'import resource, sys, impala.experiment as e;'
    'from absl import app;'
    'resource.setrlimit(resource.RLIMIT_FSIZE, (9100, 9100));'
    'app.run(e.main)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code, '--mode=test', f'--logdir={logdir}'],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 1
  assert 'could not be written' in done.stderr.splitlines()[-1]
  assert 'Traceback' not in done.stderr


def _interrupt_film(logdir, ready, stop_worker):
  """Sends SIGINT once there is what `ready` waits for."""

  def interrupt():
    while not ready():
      time.sleep(0.02)
    if stop_worker:
      children = psutil.Process().children(recursive=True)
      for child in children:
        if child.parent().pid != os.getpid():
          child.suspend()
    os.kill(os.getpid(), signal.SIGINT)

  thread = threading.Thread(target=interrupt, daemon=True)
  thread.start()
  _run(logdir, '--test_num_episodes=1', '--video')
  thread.join()


@pytest.mark.parametrize('stop_worker', [False, True])
def test_a_film_that_is_interrupted(tmp_path, capsys, stop_worker):
  logdir = tmp_path / 'run'
  _train(
    logdir, 'atari_boxing', '--network=atari_shallow',
    '--total_environment_frames=20', '--num_action_repeats=10',
  )  # fmt: skip
  videos = logdir / 'videos'
  videos.mkdir()
  film = videos / 'atari_boxing-ckpt-1.mp4'
  film.write_text('of another time')
  began = time.monotonic()
  _interrupt_film(logdir, lambda: len(list(videos.iterdir())) > 1, stop_worker)
  assert 'the scores are written' in capsys.readouterr().out
  assert _scores(logdir)['levels']
  assert list(videos.iterdir()) == [film]
  assert film.read_text() == 'of another time'
  assert time.monotonic() - began < 100
