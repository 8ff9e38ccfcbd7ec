import numpy as np
import pytest
import tensorflow as tf

from impala import actor
from impala.distributed import codec, unroll_reader
from impala.environments import protocol
from impala.networks import agent as agents

_SPEC = protocol.Spec((2,), 3, 'float32')


@pytest.fixture(scope='module')
def specs():
  agent = agents.make_agent('shallow', _SPEC)
  return actor.trajectory_specs(agent, _SPEC, unroll_length=3)


@pytest.fixture
def trajectory(specs):
  trajectory = tf.nest.map_structure(
    lambda spec: np.zeros(
      spec.shape,
      object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype,
    ),
    specs,
  )
  trajectory.env_outputs.observation.instruction[...] = b'go'
  return trajectory


def _read(specs, trajectory, updates=5):
  read = unroll_reader.UnrollReader(specs, _SPEC.num_actions)
  data = b''.join(codec.encode(tf.nest.flatten(trajectory)))
  assert len(data) <= read.maximum_bytes
  return tf.nest.pack_sequence_as(specs, read(data, updates))


def test_what_is_well_comes_through(specs, trajectory):
  trajectory.env_outputs.reward[...] = [1, 2, 3, 4]
  trajectory.agent_outputs.action[...] = [0, 1, 2, 0]
  for one, other in zip(
    tf.nest.flatten(_read(specs, trajectory)),
    tf.nest.flatten(trajectory),
    strict=True,
  ):
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(('told', 'known'), [(3, 3), (5, 5), (99, 5), (-7, 0)])
def test_versions_are_bounded_by_the_learners(specs, trajectory, told, known):
  trajectory = trajectory._replace(version=np.array(told, np.int64))
  assert int(_read(specs, trajectory).version) == known


@pytest.mark.parametrize(
  ('part', 'value', 'reason'),
  [
    (('agent_outputs', 'action'), 3, 'action'),
    (('agent_outputs', 'action'), -1, 'action'),
    (('agent_outputs', 'baseline'), np.nan, 'finite'),
    (('agent_outputs', 'policy_logits'), np.inf, 'finite'),
    (('env_outputs', 'reward'), -np.inf, 'finite'),
    (('actor',), -1, 'actor'),
  ],
)
def test_what_would_do_harm_is_refused(specs, trajectory, part, value, reason):
  tensor = trajectory
  for name in part:
    tensor = getattr(tensor, name)
  tensor.reshape(-1)[-1] = value
  with pytest.raises(ValueError, match=reason):
    _read(specs, trajectory)
