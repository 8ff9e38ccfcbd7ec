import shlex
import sys

import pytest
import tensorflow as tf

from impala import ops_library

_PIP = [sys.executable, '-m', 'pip', 'install']


@pytest.fixture(params=['clone', 'installed'])
def kind(request, tmp_path, monkeypatch):
  """How the package is installed, so that `tmp_path` is its root."""
  monkeypatch.setattr(ops_library, '_ROOT', tmp_path)
  if request.param == 'clone':
    (tmp_path / 'setup.py').touch()
  return request.param


def _remedy(kind, path, *arguments):
  """Returns the last line of a remedy."""
  clone = ['--no-build-isolation', '--editable', str(path)]
  return shlex.join([*_PIP, *(clone if kind == 'clone' else arguments)])


def test_missing_library(kind, tmp_path):
  with pytest.raises(ImportError) as caught:
    ops_library.load('no_ops.so')
  message = str(caught.value)
  assert str(tmp_path / 'no_ops.so') in message
  if kind == 'clone':
    assert message.endswith(f'\n{_remedy(kind, tmp_path)}')
  else:
    assert message.endswith(' Install impala again.')


@pytest.mark.parametrize('compiled', ['1.9.0', '2.22.0-rc1'])
def test_library_of_another_tensorflow(kind, tmp_path, compiled):
  stamp = f'impala ops compiled against TensorFlow {compiled}'
  (tmp_path / 'ops.so').write_bytes(b'\x7fELF\0' + stamp.encode() + b'\0rest')
  with pytest.raises(ImportError) as caught:
    ops_library.load('ops.so')
  message = str(caught.value)
  assert f'against TensorFlow {compiled}, ' in message
  assert f'TensorFlow {tf.__version__} is installed' in message
  assert message.endswith(
    f'\n{_remedy(kind, tmp_path, f"tensorflow=={compiled}")}'
  )


def test_library_without_a_stamp(kind, tmp_path):
  (tmp_path / 'ops.so').write_bytes(b'\x7fELF\0rest')
  with pytest.raises(ImportError, match='TensorFlow of unknown version'):
    ops_library.load('ops.so')


@pytest.mark.parametrize('package', ['dynamic_batching', 'environments'])
def test_own_libraries_load_once(package):
  path = f'{package}/_ops.so'
  assert ops_library.load(path) is ops_library.load(path)
