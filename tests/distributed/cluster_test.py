import types

import pytest

from impala.distributed import cluster
from impala.environments import protocol


def _resolve(**flags):
  defaults = {
    'learner_hosts': [],
    'num_learners': 0,
    'job_name': 'learner',
    'task': -1,
  }
  return cluster.resolve(types.SimpleNamespace(**{**defaults, **flags}))


def _place(**flags):
  config = _resolve(**flags)
  return config.job_name, config.task, config.learner_hosts


@pytest.fixture(autouse=True)
def _nothing_in_the_environment(monkeypatch):
  for name in (
    'TF_CONFIG',
    'SLURM_PROCID',
    'SLURM_STEP_NUM_TASKS',
    'SLURM_STEP_NODELIST',
    'SLURM_STEP_TASKS_PER_NODE',
    'SLURMD_NODENAME',
  ):
    monkeypatch.delenv(name, raising=False)


def test_by_default_the_learner_is_here():
  assert _place() == ('learner', -1, [])
  assert _place(task=0) == ('learner', 0, ['localhost:8470'])
  assert _place(job_name='actor', task=7)[1:] == (7, ['localhost:8470'])


def test_all_else_is_kept():
  assert _resolve(batch_size=7).batch_size == 7


@pytest.mark.parametrize('address', ['', 'a', 'a:', ':1', 'a:b', 'a:65535'])
def test_no_address(address):
  with pytest.raises(protocol.UserError, match='host:port'):
    _resolve(learner_hosts=[address], task=0)


def test_an_actor_without_a_number():
  with pytest.raises(protocol.UserError, match='needs a --task'):
    _resolve(job_name='actor')


def test_a_learner_too_many():
  with pytest.raises(protocol.UserError, match='--task=2 of 2 learners'):
    _resolve(learner_hosts=['a:1', 'b:1'], task=2)


def test_actors_are_shared_among_learners():
  hosts = ['a:1', 'b:1']
  assert [
    cluster.learner_of_actor(
      _resolve(learner_hosts=hosts, job_name='actor', task=task)
    )
    for task in range(4)
  ] == hosts * 2


@pytest.mark.parametrize(
  ('cluster_', 'task', 'place'),
  [
    ('{"worker": ["a:1", "b:1"]}', ('worker', 1), ('learner', 1, None)),
    (
      '{"chief": ["a:1"], "worker": ["b:1"]}',
      ('worker', 0),
      ('learner', 1, ['a:1', 'b:1']),
    ),
    ('{"chief": ["a:1"]}', ('chief', 0), ('learner', 0, ['a:1'])),
    (
      '{"learner": ["a:1"], "actor": ["b:1", "c:1"]}',
      ('actor', 1),
      ('actor', 1, ['a:1']),
    ),
  ],
)
def test_tf_config(monkeypatch, cluster_, task, place):
  task = f'{{"type": "{task[0]}", "index": {task[1]}}}'
  text = f'{{"cluster": {cluster_}, "task": {task}}}'
  monkeypatch.setenv('TF_CONFIG', text)
  job, number, hosts = _place()
  assert (job, number) == place[:2] and place[2] in (hosts, None)
  # Flags have the last word.
  assert _place(job_name='actor', task=5)[:2] == ('actor', 5)
  assert _place(learner_hosts=['x:1'], task=0) == ('learner', 0, ['x:1'])


@pytest.mark.parametrize('text', ['{', '{}', '[]', '{"cluster": {"ps": []}}'])
def test_no_tf_config(monkeypatch, text):
  monkeypatch.setenv('TF_CONFIG', text)
  with pytest.raises(protocol.UserError, match='TF_CONFIG'):
    _resolve()


@pytest.mark.parametrize('job', ['evaluator', 'worker', 'ps'])
def test_a_job_that_is_no_learner(monkeypatch, job):
  jobs = f'{{"learner": ["a:1"], "{job}": ["b:1"]}}'
  text = f'{{"cluster": {jobs}, "task": {{"type": "{job}", "index": 0}}}}'
  monkeypatch.setenv('TF_CONFIG', text)
  with pytest.raises(protocol.UserError, match=job):
    _resolve()


def test_which_learner_is_to_be_said(monkeypatch):
  with pytest.raises(protocol.UserError, match='Which learner'):
    _resolve(learner_hosts=['a:1'])
  monkeypatch.setenv('TF_CONFIG', '{"cluster": {"learner": ["a:1"]}}')
  with pytest.raises(protocol.UserError, match='Which learner'):
    _resolve()


def _slurm(monkeypatch, rank, nodes, tasks, per_node, node=None):
  monkeypatch.setenv('SLURM_PROCID', str(rank))
  monkeypatch.setenv('SLURM_STEP_NODELIST', nodes)
  monkeypatch.setenv('SLURM_STEP_NUM_TASKS', str(tasks))
  monkeypatch.setenv('SLURM_STEP_TASKS_PER_NODE', per_node)
  if node:
    monkeypatch.setenv('SLURMD_NODENAME', node)


@pytest.mark.parametrize(
  ('rank', 'job', 'task'),
  [(0, 'learner', 0), (1, 'learner', 1), (2, 'actor', 0), (4, 'actor', 2)],
)
def test_slurm(monkeypatch, rank, job, task):
  _slurm(monkeypatch, rank, 'n[1-2]', 5, '3,2')
  hosts = ['n1:8470', 'n1:8472']  # Each has two ports.
  assert _place(num_learners=2) == (job, task, hosts)


def test_nodes_are_in_slurms_order(monkeypatch):
  _slurm(monkeypatch, 1, 'n[2,10]', 4, '1,3', node='n10')
  hosts = ['n2:8470', 'n10:8470']
  assert _place(num_learners=2) == ('learner', 1, hosts)


def test_tasks_that_slurm_has_put_elsewhere(monkeypatch):
  _slurm(monkeypatch, 1, 'n[1-2]', 4, '2(x2)', node='n2')
  with pytest.raises(protocol.UserError, match='--distribution=block'):
    _resolve(num_learners=1)


def test_more_learners_than_tasks(monkeypatch):
  _slurm(monkeypatch, 0, 'n1', 3, '3')
  with pytest.raises(protocol.UserError, match='--num_learners=2 of 3'):
    _resolve(num_learners=2)


def test_flags_that_contradict_slurm(monkeypatch):
  _slurm(monkeypatch, 0, 'n1', 3, '3')
  for flags in ({'learner_hosts': ['a:1']}, {'task': 0}):
    with pytest.raises(protocol.UserError, match='either'):
      _resolve(num_learners=1, **flags)


def test_not_in_slurm():
  with pytest.raises(protocol.UserError, match='start them with srun'):
    _resolve(num_learners=1)
