import numpy as np
import tensorflow as tf

from impala import playing, structures


def _agent(last_action, env_output, state, noise):
  output = structures.AgentOutput(
    action=tf.constant([0]),
    policy_logits=tf.constant([[1.0, 3.0, 2.0]]),
    baseline=tf.constant([0.0]),
  )
  return output, state


def test_greedy_is_the_most_probable_action():
  for greedy, action in ((False, 0), (True, 1)):
    output, _ = playing.make_policy(_agent, greedy)(None, None, (), None)
    assert int(output.action[0]) == action


def test_noise_is_of_seed_and_step_alone():
  noise = {
    (seed, step): float(
      playing.step_noise(tf.constant(seed), tf.constant(step))[0]
    )
    for seed in range(20)
    for step in range(20)
  }
  assert len(set(noise.values())) > 390
  assert min(noise.values()) >= 0.0 and max(noise.values()) < 1.0
  assert (
    float(playing.step_noise(tf.constant(3), tf.constant(4))[0])
    == (noise[3, 4])
  )


def test_the_first_step_has_nothing_before_it():
  step = structures.StepOutput(
    reward=tf.constant([2.0]),
    info=structures.StepOutputInfo(
      episode_return=tf.constant([5.0]),
      episode_step=tf.constant([7]),
      episode_over=tf.constant([True]),
    ),
    done=tf.constant([False]),
    observation=structures.Observation(
      frame=tf.constant([[1.0]]), instruction=tf.constant([b'go'])
    ),
  )
  first = playing.first_step(step)
  np.testing.assert_array_equal(first.reward, [0.0])
  assert all(not value[0] for value in first.info)
  assert bool(first.done[0])
  assert first.observation == step.observation
