"""Actors: each unrolls the policy in one environment, all inside one graph."""

from collections.abc import Callable

import tensorflow as tf

from impala import structures
from impala.environments import protocol, step_op

Policy = Callable[..., tuple[structures.AgentOutput, tuple]]


def trajectory_specs(
  agent, spec: protocol.Spec, unroll_length: int
) -> structures.Trajectory:
  """Tensor specs of the trajectories that `make_actor_loop` enqueues."""

  def entries(dtype, *shape):
    return tf.TensorSpec([unroll_length + 1, *shape], dtype)

  return structures.Trajectory(
    actor=tf.TensorSpec([], tf.int32),
    version=tf.TensorSpec([], tf.int64),
    agent_state=tf.nest.map_structure(
      lambda t: tf.TensorSpec(t.shape[1:], t.dtype), agent.initial_state(1)
    ),
    env_outputs=structures.StepOutput(
      reward=entries(tf.float32),
      info=structures.StepOutputInfo(
        episode_return=entries(tf.float32),
        episode_step=entries(tf.int32),
        episode_over=entries(tf.bool),
      ),
      done=entries(tf.bool),
      observation=structures.Observation(
        frame=entries(tf.as_dtype(spec.frame_dtype), *spec.frame_shape),
        instruction=entries(tf.string),
      ),
    ),
    agent_outputs=structures.AgentOutput(
      action=entries(tf.int32),
      policy_logits=entries(tf.float32, spec.num_actions),
      baseline=entries(tf.float32),
    ),
  )


def make_actor_loop(
  agent,
  policy: Policy,
  spec: protocol.Spec,
  unroll_length: int,
  queue: tf.queue.QueueBase,
  version: tf.Variable,
  seconds_blocked: tf.Variable,
  permits: tf.queue.QueueBase | None = None,
):
  """Makes the one tf.function that all actors run, each on its own thread.

  Args:
    agent: Gives the initial state.
    policy: `agent` behind dynamic batching: takes last actions, environment
      outputs, core state and noise, all with a batch dimension.
    spec: The environments'.
    unroll_length: T, in agent steps.
    queue: Takes the trajectories, flattened.
    version: The learner's update count, int64.
    seconds_blocked: Float64; gathers the time spent waiting for the queue.
    permits: Where given, one element is taken from it before each unroll.

  Returns:
    A tf.function of an environment's handle and the actor's index (int32),
    which returns only by raising: what `step_op.step` raises, or
    `tf.errors.CancelledError` when the queue is closed.
  """

  def unroll(handle, actor, env_output, agent_output, state, noise):
    # The steps are traced one after another: a while_loop's bookkeeping would
    # cost more than all else here (benchmarks/actor_overhead.py).
    with tf.control_dependencies([noise]):
      began_at = version.read_value()
    first_state = state
    env_outputs, agent_outputs = [env_output], [agent_output]
    for _ in range(unroll_length):
      agent_output, state = policy(
        agent_output.action, seen_by_policy(env_output, spec), state, noise
      )
      env_output, noise = step_op.step(handle, agent_output.action, spec)
      env_outputs.append(env_output)
      agent_outputs.append(agent_output)
    trajectory = structures.Trajectory(
      actor=actor,
      version=began_at,
      agent_state=tf.nest.map_structure(lambda t: t[0], first_state),
      env_outputs=_concat(env_outputs),
      agent_outputs=_concat(agent_outputs),
    )
    with tf.control_dependencies(tf.nest.flatten(trajectory)):
      before = tf.timestamp()
    with tf.control_dependencies([before]):
      enqueue = queue.enqueue(tf.nest.flatten(trajectory))
    with tf.control_dependencies([enqueue]):
      taken = seconds_blocked.assign_add(tf.timestamp() - before)
    if permits is not None:
      with tf.control_dependencies([taken]):
        permit = permits.dequeue()
      with tf.control_dependencies([permit]):
        state = tf.nest.map_structure(tf.identity, state)
        noise = tf.identity(noise)
    return env_output, agent_output, state, noise

  # Nothing to convert, and converting 2 T calls takes its time.
  @tf.function(
    autograph=False,
    input_signature=[
      tf.TensorSpec([], tf.resource),
      tf.TensorSpec([], tf.int32),
    ],
  )
  def run(handle, actor):
    # From here on, whatever ends this has one permit that it did not use.
    permit = [] if permits is None else [permits.dequeue()]
    with tf.control_dependencies(permit):
      env_output, noise = step_op.first(handle, spec)
    agent_output = structures.AgentOutput(
      action=tf.zeros([1], tf.int32),
      policy_logits=tf.zeros([1, spec.num_actions]),
      baseline=tf.zeros([1]),
    )
    tf.while_loop(
      lambda *_: True,
      lambda *carried: unroll(handle, actor, *carried),
      (env_output, agent_output, agent.initial_state(1), noise),
      parallel_iterations=1,
    )

  return run


def seen_by_policy(env_output, spec):
  """Leaves out what would be batched for nothing, from a `StepOutput`."""
  observation = env_output.observation
  if not spec.has_instruction:
    observation = observation._replace(instruction=())
  return env_output._replace(info=(), observation=observation)


def _concat(steps):
  return tf.nest.map_structure(lambda *t: tf.concat(t, 0), *steps)
