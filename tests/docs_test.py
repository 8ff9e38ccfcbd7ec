import pathlib
import re

from absl import flags

from impala import experiment
from impala.docs import make_flags

_ROOT = pathlib.Path(experiment.__file__).parent
_PAGES = [_ROOT / 'README.md', *sorted((_ROOT / 'docs').glob('*.md'))]
# Not imported: programs may have flags of the same name.
_PROGRAMS = [
  'experiment.py',
  'distributed/local_cluster.py',
  'report/__main__.py',
]
# Of Bazel, Docker, kubectl, pip, Slurm and absl itself.
_OTHERS = {
  *('build-arg', 'cpus-per-task', 'exclusive', 'from-file', 'gpus'),
  *('gpus-per-node', 'help', 'mem-per-cpu', 'no-build-isolation', 'no-deps'),
  *('nodes', 'ntasks-per-node', 'replicas', 'rm', 'signal', 'test_arg'),
  *('time', 'user', 'flagfile'),
}


def test_flags_page_is_up_to_date():
  written = (_ROOT / 'docs/flags.md').read_text(encoding='utf-8')
  assert written == make_flags.page(), 'make docs'
  for flag in flags.FLAGS.get_key_flags_for_module(experiment):
    assert f'\n| `--{flag.name}` |' in written


def test_flags_that_are_named_exist():
  defined = {
    name
    for program in _PROGRAMS
    for name in re.findall(
      r"DEFINE_\w+\(\s*'(\w+)'", (_ROOT / program).read_text(encoding='utf-8')
    )
  }
  for page in _PAGES:
    text = page.read_text(encoding='utf-8')
    named = set(re.findall(r'(?<![\w-])--([a-z][a-z_-]*)', text))
    assert named <= {*defined, *_OTHERS, 'x', 'nox'}, page


def test_files_that_are_named_exist():
  for page in _PAGES:
    text = page.read_text(encoding='utf-8')
    for name in re.findall(r'\]\((?!https?:)([^)#]+)', text):
      assert (page.parent / name).exists(), f'{page}: {name}'
