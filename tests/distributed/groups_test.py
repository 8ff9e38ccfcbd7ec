import socket
import types

import pytest

from impala.distributed import groups
from impala.environments import protocol


def _make(devices=('/cpu:0',), **flags):
  config = types.SimpleNamespace(
    **{'learner_hosts': ['a:1'], 'task': -1, 'batch_size': 3, **flags}
  )
  return groups.make_group(config, devices)


@pytest.mark.parametrize('task', [-1, 0])
def test_a_single_learner(task):
  group = _make(task=task)
  assert (group.size, group.replicas) == (1, 1)


def test_a_batch_that_cannot_be_shared():
  hosts = ['a:1', 'b:1']
  with pytest.raises(protocol.UserError, match=r'--batch_size=3.*2 learners'):
    _make(learner_hosts=hosts, task=0)
  with pytest.raises(protocol.UserError, match=r'--batch_size=3.*2 GPUs'):
    _make(['/gpu:0', '/gpu:1'])
  assert _make(learner_hosts=hosts).size == 1  # Their actors' flags alone.


def test_several_gpus_of_several_learners():
  with pytest.raises(protocol.UserError, match='CUDA_VISIBLE_DEVICES'):
    _make(['/gpu:0', '/gpu:1'], learner_hosts=['a:1', 'b:1'], task=1)


def test_an_address_that_is_taken():
  with socket.create_server(('localhost', 0)) as taken:
    port = taken.getsockname()[1]
    hosts = [f'localhost:{port - 1}', 'localhost:1']
    with pytest.raises(protocol.UserError, match='--learner_hosts'):
      _make(learner_hosts=hosts, task=0, batch_size=2)
