"""An episode as tests play it, all inside one graph."""

import tensorflow as tf

from impala import actor, structures
from impala.environments import protocol, step_op


def make_policy(agent, greedy: bool):
  """Returns the agent's policy as tests play it.

  Args:
    agent: A `networks.agent.Agent`.
    greedy: Whether to take the most probable action, and not to draw one.
  """

  def policy(last_actions, env_outputs, state, noise):
    output, state = agent(last_actions, env_outputs, state, noise)
    if greedy:
      best = tf.argmax(output.policy_logits, -1, tf.int32)
      output = output._replace(action=best)
    return output, state

  return policy


def first_step(env_output: structures.StepOutput) -> structures.StepOutput:
  """Makes an observation the first of a run: nothing came before it."""
  info = tf.nest.map_structure(tf.zeros_like, env_output.info)
  return env_output._replace(
    reward=tf.zeros_like(env_output.reward),
    info=info,
    done=tf.ones_like(env_output.done),
  )


def step_noise(seed: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
  """Returns what decides the action of a step, float32 `[1]` in [0, 1)."""
  return tf.random.stateless_uniform([1], tf.stack([seed, step]))


def make_play_episode(agent, policy, spec: protocol.Spec):
  """Makes the one tf.function that plays an episode in any environment.

  Args:
    agent: Gives the initial state.
    policy: What `make_policy` made, perhaps behind dynamic batching.
    spec: The environments'.

  Returns:
    A function of an environment's handle, its newest `StepOutput` and the
    episode's seed (int32), which returns the `StepOutput` that ends the
    episode. It raises what `step_op.step` raises.
  """

  def step(handle, seed, number, env_output, last_action, state):
    output, state = policy(
      last_action,
      actor.seen_by_policy(env_output, spec),
      state,
      step_noise(seed, number),
    )
    env_output, _ = step_op.step(handle, output.action, spec)
    return number + 1, env_output, output.action, state

  @tf.function(
    autograph=False,
    input_signature=[
      tf.TensorSpec([], tf.resource),
      actor.trajectory_specs(agent, spec, unroll_length=0).env_outputs,
      tf.TensorSpec([], tf.int32),
    ],
  )
  def play_episode(handle, env_output, seed):
    _, env_output, _, _ = tf.while_loop(
      lambda _, env_output, *__: ~env_output.info.episode_over[0],
      lambda *carried: step(handle, seed, *carried),
      (
        tf.constant(0),
        first_step(env_output),
        tf.zeros([1], tf.int32),
        agent.initial_state(1),
      ),
      parallel_iterations=1,
    )
    return env_output

  # Traced here: the threads would all believe that they had done it.
  return play_episode.get_concrete_function()
