import pytest
import tensorflow as tf

from impala import actor
from impala.distributed import remote_pool
from impala.environments import protocol
from impala.networks import agent as agents

_SPEC = protocol.Spec((2,), 3, 'float32')


@pytest.fixture(scope='session')
def agent():
  return agents.make_agent('shallow', _SPEC)


@pytest.fixture(scope='session')
def make_pool(agent):
  """Makes pools of remote actors, at any port, with a learner at an update."""

  def make(updates=5, batch_size=1, address='localhost:0', credentials=None):
    return remote_pool.RemotePool(
      actor.trajectory_specs(agent, _SPEC, unroll_length=3),
      _SPEC.num_actions,
      agent.trainable_variables,
      tf.Variable(updates, dtype=tf.int64),
      batch_size,
      address,
      credentials,
    )

  return make
