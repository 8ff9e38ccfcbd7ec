"""Which process of a cluster this is, and where the learners are."""

import os
import re
import types

import tensorflow as tf

from impala.environments import protocol

_DEFAULT_ADDRESS = 'localhost:8470'
_DEFAULT_PORT = 8470
_TF_CONFIG = (
  'The environment variable TF_CONFIG has no learner: write it as '
  '{"cluster": {"learner": ["host:port"]}, "task": {"type": "learner", '
  '"index": 0}}, or unset it and give --learner_hosts.'
)


def resolve(config) -> types.SimpleNamespace:
  """Returns the flags with the place of this process among all.

  What `--learner_hosts`, `--job_name` and `--task` leave open is that of Slurm
  where `--num_learners` asks for it, else that of `TF_CONFIG`, where it is set;
  else the learner is on this machine.

  Args:
    config: Has experiment.py's flags as attributes.

  Raises:
    UserError: They contradict each other, or what they need is not there.
  """
  if config.num_learners:
    if config.learner_hosts or config.task >= 0:
      raise protocol.UserError(
        '--num_learners finds out what --learner_hosts and --task say: give '
        'either it or these.'
      )
    place = _of_slurm(config.num_learners)
  elif os.environ.get('TF_CONFIG') and not config.learner_hosts:
    place = _of_tf_config()
    if config.task >= 0 or 'task' not in place:
      place = {'learner_hosts': place['learner_hosts']}
  elif not config.learner_hosts and config.task >= 0:
    place = {'learner_hosts': [_DEFAULT_ADDRESS]}
  else:
    place = {}
  config = types.SimpleNamespace(**{**vars(config), **place})
  _check(config)
  return config


def learner_of_actor(config) -> str:
  """Returns the address of the learner that an actor belongs to."""
  return config.learner_hosts[config.task % len(config.learner_hosts)]


def _check(config):
  for address in config.learner_hosts:
    host, _, port = address.rpartition(':')
    if not host or not port.isdecimal() or int(port) > 65534:
      raise protocol.UserError(
        f'{address!r} in --learner_hosts is no host:port, such as '
        f'{_DEFAULT_ADDRESS}.'
      )
  if config.job_name == 'actor' and config.task < 0:
    raise protocol.UserError(
      '--job_name=actor needs a --task: 0, 1, … for each actor process.'
    )
  if config.learner_hosts and config.task < 0:
    raise protocol.UserError(
      'Which learner of --learner_hosts, or of TF_CONFIG, is this? Give a '
      '--task: 0 for the first.'
    )
  learners = max(len(config.learner_hosts), 1)
  if config.job_name == 'learner' and config.task >= learners:
    raise protocol.UserError(
      f'--task={config.task} of {learners} learners: they count from 0, and '
      '--learner_hosts names each.'
    )


def _of_tf_config():
  try:
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    jobs = resolver.cluster_spec().as_dict()
    job, task = resolver.task_type, resolver.task_id
    first = jobs.get('chief', [])
    hosts = jobs.get('learner') or [*first, *jobs.get('worker', [])]
  except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
    raise protocol.UserError(_TF_CONFIG) from error
  if not hosts:
    raise protocol.UserError(_TF_CONFIG)
  place = {'learner_hosts': hosts}
  if job == 'actor':
    place |= {'job_name': 'actor', 'task': task}
  elif job in jobs and set(jobs[job]) <= set(hosts):
    place |= {'task': hosts.index(jobs[job][task])}
  elif job:
    raise protocol.UserError(
      f'TF_CONFIG has a task of the job {job!r}: it is to be one of the '
      'learners (learner, or chief and worker) or an actor.'
    )
  return place


def _of_slurm(num_learners):
  """The first tasks of a Slurm step are learners, the others actors."""
  try:
    tasks = int(os.environ['SLURM_STEP_NUM_TASKS'])
    rank = int(os.environ['SLURM_PROCID'])
    # GPUs are Slurm's to deal. The resolver fails where there are none to deal.
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
      gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False
    )
    addresses = resolver.cluster_spec().job_tasks('worker')
  except (KeyError, RuntimeError, ValueError) as error:
    raise protocol.UserError(
      f'--num_learners is for the tasks of a Slurm step ({error}): start them '
      'with srun, or give --learner_hosts, --job_name and --task.'
    ) from error
  if 2 * num_learners > tasks:
    raise protocol.UserError(
      f'--num_learners={num_learners} of {tasks} tasks: each needs an actor, '
      'too; ask srun for more.'
    )
  # The resolver has n10 before n2; Slurm has not.
  nodes = sorted((a.rpartition(':')[0] for a in addresses), key=_natural)
  if nodes[rank] != os.environ.get('SLURMD_NODENAME', nodes[rank]):
    raise protocol.UserError(
      f'Task {rank} is not on {nodes[rank]}: give srun --distribution=block.'
    )
  hosts = []
  for task, node in enumerate(nodes[:num_learners]):
    # A learner has two ports.
    port = _DEFAULT_PORT + 2 * (task - nodes.index(node))
    hosts.append(f'{node}:{port}')
  is_learner = rank < num_learners
  return {
    'learner_hosts': hosts,
    'job_name': 'learner' if is_learner else 'actor',
    'task': rank if is_learner else rank - num_learners,
  }


def _natural(name):
  return [
    (int(part), '') if part.isdecimal() else (0, part)
    for part in re.split(r'(\d+)', name)
  ]
