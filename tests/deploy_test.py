import pathlib
import re
import subprocess
import sysconfig

import kubernetes_validate
import pytest
import yaml
from absl import flags

from impala import experiment  # noqa: F401, which defines the flags.

_ROOT = pathlib.Path(__file__).parent.parent
_FILES = ['Dockerfile', 'deploy/slurm.sh', 'deploy/kubernetes.yaml']
_OLDEST = '1.28'  # The first that tells pods their index.


def _read(name):
  return (_ROOT / name).read_text(encoding='utf-8')


def _manifests():
  return list(yaml.safe_load_all(_read('deploy/kubernetes.yaml')))


@pytest.mark.parametrize('name', ['deploy/slurm.sh', '.ci/run'])
def test_the_shell_has_nothing_to_object(name):
  shellcheck = pathlib.Path(sysconfig.get_path('scripts'), 'shellcheck')
  found = subprocess.run(
    [shellcheck, _ROOT / name], capture_output=True, text=True
  )
  assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize(
  'version', [_OLDEST, kubernetes_validate.latest_version()]
)
def test_kubernetes_knows_every_field(version):
  for manifest in _manifests():
    kubernetes_validate.validate(manifest, version, strict=True)


def test_kubernetes_gives_the_learners_the_names_that_actors_call():
  manifests = {(m['kind'], m['metadata']['name']): m for m in _manifests()}
  learner = manifests['StatefulSet', 'learner']['spec']
  hosts = ','.join(
    f'learner-{k}.{learner["serviceName"]}:8470'
    for k in range(learner['replicas'])
  )
  common = manifests['ConfigMap', 'impala']['data']['impala.flags']
  assert f'--learner_hosts={hosts}\n' in common
  assert ('Service', learner['serviceName']) in manifests


@pytest.mark.parametrize('name', ['deploy/slurm.sh', 'deploy/kubernetes.yaml'])
def test_flags_are_those_of_the_program(name):
  text = _read(name).rpartition('experiment.py')[2]  # Before it: Slurm's own.
  named = set(re.findall(r'--([a-z_]+)', text))
  assert named
  assert named <= {*flags.FLAGS, 'flagfile'}


@pytest.mark.parametrize('name', [*_FILES, 'docs/cluster.md'])
def test_files_that_are_named_exist(name):
  for path in re.findall(r'\b(?:configs|deploy|docs)/[\w.]+\w', _read(name)):
    assert (_ROOT / path).exists(), path
