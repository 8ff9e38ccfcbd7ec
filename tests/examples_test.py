import csv
import pathlib

import pytest
from absl import flags
from absl.testing import flagsaver

from impala import experiment
from impala.environments import protocol, registry

_ROOT = pathlib.Path(experiment.__file__).parent
_LEVEL = 'gym:examples.catch:Catch-v0'


@pytest.fixture(autouse=True)
def in_the_clone(monkeypatch):
  """As `python experiment.py` finds examples, here and in processes."""
  monkeypatch.syspath_prepend(str(_ROOT))
  monkeypatch.setenv('PYTHONPATH', str(_ROOT))


def test_it_is_as_short_as_the_readme_says():
  lines = (_ROOT / 'examples/catch.py').read_text(encoding='utf-8').count('\n')
  assert lines < 40


def test_the_paddle_decides():
  options = protocol.Options(num_action_repeats=1)
  environment = registry.make(_LEVEL, options)
  for target in 0, 4:
    grid = environment.reset().frame.reshape(10, 5)
    column = int(grid[0].argmax())
    steps = [environment.step(0 if target == 0 else 2) for _ in range(9)]
    assert [step.over for step in steps] == [False] * 8 + [True]
    assert sum(step.reward for step in steps) == (1 if column == target else -1)
  environment.close()


@pytest.mark.slow
def test_catch_is_learned(tmp_path):
  readme = (_ROOT / 'README.md').read_text(encoding='utf-8')
  commands = readme.replace('\\\n', '').splitlines()
  (command,) = (line for line in commands if _LEVEL in line)
  with flagsaver.flagsaver():
    flags.FLAGS([*command.split()[1:], f'--logdir={tmp_path}'])
    experiment.main(['experiment.py'])
  with (tmp_path / 'metrics.csv').open(newline='', encoding='utf-8') as file:
    assert float(list(csv.DictReader(file))[-1]['episode_return']) > 0.8
