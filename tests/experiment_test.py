import inspect
import json
import pathlib
import subprocess
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from impala import experiment, learner
from impala.environments import registry

_ROOT = pathlib.Path(experiment.__file__).parent
_CONFIGS = sorted((_ROOT / 'configs').glob('*.flags'))
_RELEASED = {
  'logdir': '/tmp/agent',
  'mode': 'train',
  'test_num_episodes': 10,
  'task': -1,
  'job_name': 'learner',
  'total_environment_frames': 1_000_000_000,
  'num_actors': 4,
  'batch_size': 2,
  'unroll_length': 100,
  'num_action_repeats': 4,
  'seed': 1,
  'entropy_cost': 0.00025,
  'baseline_cost': 0.5,
  'discounting': 0.99,
  'reward_clipping': 'abs_one',
  'dataset_path': '',
  'level_name': 'explore_goal_locations_small',
  'width': 96,
  'height': 72,
  'learning_rate': 0.00048,
  'decay': 0.99,
  'momentum': 0.0,
  'epsilon': 0.1,
}


@pytest.fixture
def parse():
  """Parses arguments and returns the values of experiment.py's flags."""

  def parse(*arguments):
    flags.FLAGS(['experiment.py', *arguments])
    ours = flags.FLAGS.get_key_flags_for_module(experiment)
    return {flag.name: flag.value for flag in ours}

  with flagsaver.flagsaver():
    yield parse


def _error(*arguments):
  """Runs experiment.py, which must fail; returns what it says."""
  command = [sys.executable, str(_ROOT / 'experiment.py'), *arguments]
  result = subprocess.run(command, capture_output=True, text=True, timeout=120)
  assert result.returncode == 1
  assert 'Traceback' not in result.stderr and not result.stdout
  return result.stderr


def test_defaults_are_those_of_the_released_code(parse):
  values = parse()
  assert {name: values[name] for name in _RELEASED} == _RELEASED
  assert values['network'] == 'deep' and values['correction'] == 'v_trace'


def test_every_flag_of_the_released_code_parses(parse):
  other = {
    'mode': 'test',
    'job_name': 'actor',
    'reward_clipping': 'soft_asymmetric',
    'total_environment_frames': 10_000_000_000,
  }
  wanted = {
    name: other.get(name, value + 2 if isinstance(value, int) else value)
    for name, value in _RELEASED.items()
  }
  values = parse(*(f'--{name}={value}' for name, value in wanted.items()))
  assert {name: values[name] for name in _RELEASED} == wanted


def test_flags_name_the_hyperparameters(parse):
  named = {'lambda_': 'vtrace_lambda'}
  for parameter in inspect.signature(learner.Hyperparameters).parameters:
    if parameter != 'frames_per_update':
      assert named.get(parameter, parameter) in parse()


def test_values_are_checked(parse):
  for wrong in ('num_actors=0', 'discounting=1.1', 'network=wide', 'seed=x'):
    with pytest.raises(flags.Error, match=wrong.split('=')[0]):
      parse(f'--{wrong}')


def test_wrong_flag_is_a_short_error():
  assert "Unknown command line flag 'num_actor'" in _error('--num_actor=4')


def test_wrong_value_is_a_short_error():
  assert 'flag --batch_size=0' in _error('--batch_size=0')


def test_stray_argument(parse):
  parse()
  with pytest.raises(SystemExit, match='impala: num_actors=4 is not a flag'):
    experiment.main(['experiment.py', 'num_actors=4'])


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--level_name=gym:NoSuchThing-v0'], 'NoSuchThing'),
    (['--level_name=gym:CartPole-v1', '--logdir=/dev/null/x'], 'another'),
    (['--level_name=no_such_level'], 'no_such_level'),
  ],
)
def test_user_errors_are_short(parse, tmp_path, arguments, message):
  parse(f'--logdir={tmp_path}', '--num_actors=1', *arguments)
  with pytest.raises(SystemExit, match=rf'^impala: .*{message}'):
    experiment.main(['experiment.py'])


@pytest.mark.parametrize('path', _CONFIGS, ids=lambda path: path.stem)
def test_configs_parse(parse, path):
  values = parse(f'--flagfile={path}')
  assert registry.levels(values['level_name'])
  assert values['logdir'] == f'runs/{path.stem}'


def test_flagfile_of_the_package(parse, tmp_path, monkeypatch):
  argument = '--flagfile=configs/quickstart.flags'
  monkeypatch.chdir(tmp_path)
  assert parse(experiment._find(argument))['level_name'] == 'doom_basic'
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs' / 'quickstart.flags').write_text('--level_name=mine')
  assert parse(experiment._find(argument))['level_name'] == 'mine'


@pytest.mark.parametrize(
  'argument', ['--flagfile', '--flagfile=', '--logdir=.']
)
def test_other_arguments_stay(argument):
  assert experiment._find(argument) == argument


def test_help_of_the_entry_point(tmp_path):
  code = 'from impala import experiment; experiment.run()'
  command = [sys.executable, '-c', code, '--help']
  result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
  assert experiment.__doc__ in result.stdout
  assert '--level_name' in result.stdout


def test_config_of_one_level_has_the_released_defaults(parse):
  values = parse(f'--flagfile={_ROOT / "configs" / "dmlab_level.flags"}')
  changed = {
    'num_actors': 48, 'batch_size': 32, 'logdir': 'runs/dmlab_level'
  }  # fmt: skip
  assert {name: values[name] for name in _RELEASED} == {**_RELEASED, **changed}


def test_config_of_dmlab30(parse):
  values = parse(f'--flagfile={_ROOT / "configs" / "dmlab30.flags"}')
  changed = {
    'level_name': 'dmlab30',
    'logdir': 'runs/dmlab30',
    'num_actors': 150,
    'batch_size': 32,
    'entropy_cost': 0.0033391318945337044,
    'learning_rate': 0.00031866995608948655,
    'total_environment_frames': 10_000_000_000,
    'reward_clipping': 'soft_asymmetric',
  }
  assert {name: values[name] for name in _RELEASED} == {**_RELEASED, **changed}
  assert values['network'] == 'deep'


def test_config_of_atari_has_the_values_of_table_g1(parse):
  values = parse(f'--flagfile={_ROOT / "configs" / "atari.flags"}')
  table = {
    'num_action_repeats': 4,
    'reward_clipping': 'abs_one',
    'unroll_length': 20,
    'batch_size': 32,
    'discounting': 0.99,
    'baseline_cost': 0.5,
    'entropy_cost': 0.01,
    'epsilon': 0.01,
    'momentum': 0.0,
    'learning_rate': 6e-4,
    'gradient_clipping': 40.0,
    'total_environment_frames': 200_000_000,
  }
  assert {name: values[name] for name in table} == table
  assert values['network'] == 'atari_shallow'


def test_config_json_has_every_flag(parse, tmp_path):
  values = parse(
    f'--logdir={tmp_path}',
    '--level_name=gym:CartPole-v1',
    '--num_actors=1',
    '--batch_size=1',
    '--unroll_length=2',
    '--num_action_repeats=1',
    '--total_environment_frames=4',
    '--clip_rho_threshold=inf',
  )
  experiment.main(['experiment.py'])
  text = (tmp_path / 'config.json').read_text()
  assert json.loads(text) == values
