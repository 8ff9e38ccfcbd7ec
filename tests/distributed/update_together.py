"""A learner of a group, run by synchronous_test.py as a process of its own.

Arguments: task, number of learners, first port, updates, where to save, and
the devices of a learner.
"""

import sys

import numpy as np
import tensorflow as tf

from impala import actor, learner, structures
from impala.distributed import synchronous
from impala.environments import protocol
from impala.networks import agent as agents

B, T = 4, 5  # Of all learners together.
SPEC = protocol.Spec((2,), 3, 'float32')


def make_batch(agent, update):
  """Returns the whole batch of an update, the same in all processes."""
  random = np.random.default_rng(update)
  specs = actor.trajectory_specs(agent, SPEC, T)

  def time_major(spec):
    shape = [spec.shape[0], B, *spec.shape[1:]]
    if spec.dtype == tf.float32:
      return tf.constant(random.normal(size=shape), tf.float32)
    if spec.dtype == tf.bool:
      return tf.constant(random.random(shape) < 0.2)
    if spec.dtype == tf.string:
      return tf.fill(shape, '')
    return tf.constant(random.integers(3, size=shape), spec.dtype)

  return structures.Trajectory(
    actor=tf.range(B),
    version=tf.fill([B], tf.constant(update, tf.int64)),
    agent_state=tf.nest.map_structure(
      lambda spec: tf.zeros([B, *spec.shape]), specs.agent_state
    ),
    env_outputs=tf.nest.map_structure(time_major, specs.env_outputs),
    agent_outputs=tf.nest.map_structure(time_major, specs.agent_outputs),
  )


def share(batch, task, size):
  """Returns one learner's part of a batch."""
  rows = slice(task * B // size, (task + 1) * B // size)
  parts = tf.nest.map_structure(lambda t: t[:, rows], batch[3:])
  return structures.Trajectory(
    *tf.nest.map_structure(lambda t: t[rows], batch[:3]), *parts
  )


def main(task, size, port, updates, path, devices):
  group = synchronous.Alone()
  if devices > 1:
    tf.config.set_logical_device_configuration(
      tf.config.list_physical_devices('CPU')[0],
      [tf.config.LogicalDeviceConfiguration() for _ in range(devices)],
    )
    group = synchronous.Mirrored([f'/cpu:{i}' for i in range(devices)])
  if size > 1:
    addresses = [f'localhost:{port + k}' for k in range(size)]
    group = synchronous.Group(addresses, task)
  # Unlike at first: `adopt` makes them alike.
  tf.random.set_seed(task)
  with group.scope():
    agent = agents.make_agent('shallow', SPEC)
  learning = learner.Learner(
    agent,
    learner.Hyperparameters(
      total_environment_frames=1e6,
      frames_per_update=B * T,
      discounting=0.99,
      entropy_cost=0.01,
      baseline_cost=0.5,
      reward_clipping='abs_one',
      learning_rate=1e-3,
      decay=0.99,
      momentum=0.0,
      epsilon=0.1,
      gradient_clipping=40.0,
    ),
    group,
  )
  group.adopt(learning.variables)
  done = []
  for update in range(updates):
    batch = share(make_batch(learning.agent, update % 20), task, size)
    done.append([float(value) for value in learning.update(batch)])
  assert group.any(task == size - 1)
  assert not group.any(False)
  for replica in range(devices):
    values = [_copy(v, replica).numpy() for v in learning.variables]
    np.savez(f'{path}{replica}.npz', *values, updates=np.array(done))


def _copy(variable, replica):
  """A replica's own copy of a variable, where there are several."""
  copies = getattr(variable, 'values', [variable])
  return copies[replica % len(copies)]


if __name__ == '__main__':
  main(*map(int, sys.argv[1:5]), sys.argv[5], int(sys.argv[6]))
