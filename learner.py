"""The learner: one update of the agent from a batch of trajectories."""

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from impala import batches, losses, rmsprop, structures, vtrace
from impala.distributed import synchronous


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
  """How to learn; the names are those of the flags.

  Attributes:
    total_environment_frames: Where the learning rate reaches zero.
    frames_per_update: Environment frames a batch stands for.
    gradient_clipping: Bound on the global gradient norm; 0 for none.
    reward_scale: Multiplies rewards before they are clipped.
  """

  total_environment_frames: float
  frames_per_update: int
  discounting: float
  entropy_cost: float
  baseline_cost: float
  reward_clipping: str
  learning_rate: float
  decay: float
  momentum: float
  epsilon: float
  correction: str = 'v_trace'
  lambda_: float = 1.0
  clip_rho_threshold: float | None = 1.0
  clip_pg_rho_threshold: float | None = 1.0
  clip_c_threshold: float | None = 1.0
  q_estimate: str = 'v_trace'
  gradient_clipping: float = 0.0
  reward_scale: float = 1.0


class Update(NamedTuple):
  """Scalars of one update; losses are summed over the batch."""

  total_loss: tf.Tensor
  policy_gradient_loss: tf.Tensor
  baseline_loss: tf.Tensor
  entropy_loss: tf.Tensor
  gradient_norm: tf.Tensor
  learning_rate: tf.Tensor
  policy_lag: tf.Tensor  # Mean updates between acting and learning.


class Learner(tf.Module):
  """Trains an agent; what a checkpoint holds.

  Attributes:
    agent: The `networks.agent.Agent`.
    group: The learners that update together.
    updates: How many there have been, an int64 variable.
    frames: Environment frames learned from, an int64 variable.
  """

  def __init__(
    self,
    agent,
    hyperparameters: Hyperparameters,
    group: synchronous.Alone | None = None,
  ):
    """Makes a learner.

    Args:
      agent: With its variables, made in the group's scope.
      hyperparameters: Of all learners of the group together.
      group: With whom updates are made; None for alone.
    """
    super().__init__(name='learner')
    self.group = group or synchronous.Alone()
    self.agent = agent
    self.updates = tf.Variable(0, dtype=tf.int64, trainable=False)
    self.frames = tf.Variable(0, dtype=tf.int64, trainable=False)
    self._hyperparameters = hyperparameters
    with self.group.scope():
      self.optimizer = rmsprop.RMSProp(
        agent.trainable_variables,
        hyperparameters.decay,
        hyperparameters.momentum,
        hyperparameters.epsilon,
      )

  @tf.function(autograph=False)
  def update(self, batch: structures.Trajectory) -> Update:
    """Learns from a batch (Section 4.2).

    Args:
      batch: Time-major: `[T + 1, B, ...]`, the agent state `[B, ...]`; this
        learner's share of the group's.

    Returns:
      The `Update`.

    Raises:
      tf.errors.InvalidArgumentError: The loss or a gradient is not finite;
        nothing has been changed then.
    """
    replicas = self.group.replicas
    update = self.group.run(
      lambda index: self._update(batches.share(batch, index, replicas))
    )
    with tf.control_dependencies(update):
      self.frames.assign_add(self._hyperparameters.frames_per_update)
      self.updates.assign_add(1)
    return update

  def _update(self, batch):
    """One replica's part in an update, from its part of the batch."""
    h = self._hyperparameters
    variables = self.agent.trainable_variables
    with tf.GradientTape() as tape:
      terms = self._losses(batch)
      total = sum(terms)
    lag = tf.reduce_mean(tf.cast(self.updates - batch.version, tf.float32))
    gradients = [
      tf.convert_to_tensor(gradient)
      for gradient in tape.gradient(total, variables)
    ]
    total, *terms, lag = self.group.sum([total, *terms, lag])
    lag /= self.group.size * self.group.replicas
    gradients = self.group.sum(gradients)
    norm = tf.linalg.global_norm(gradients)
    if h.gradient_clipping:
      gradients, _ = tf.clip_by_global_norm(
        gradients, h.gradient_clipping, use_norm=norm
      )
    done = tf.cast(self.frames, tf.float32) / h.total_environment_frames
    learning_rate = h.learning_rate * tf.maximum(0.0, 1.0 - done)
    finite = [
      tf.debugging.check_numerics(total, 'The loss'),
      tf.debugging.check_numerics(norm, 'The gradient'),
    ]
    with tf.control_dependencies(finite):
      self.optimizer.apply(
        [tf.identity(gradient) for gradient in gradients], learning_rate
      )
      total = tf.identity(total)
    return Update(total, *terms, norm, learning_rate, lag)

  def _losses(self, batch):
    """Policy gradient, baseline and entropy loss, with their costs."""
    h = self._hyperparameters
    logits, values = self.agent.unroll(
      batch.agent_outputs.action, batch.env_outputs, batch.agent_state
    )
    # What the actor did at an index is with the next one's outcome.
    behaviour = tf.nest.map_structure(lambda t: t[1:], batch.agent_outputs)
    outcome = tf.nest.map_structure(
      lambda t: t[1:], (batch.env_outputs.reward, batch.env_outputs.done)
    )
    reward, done = outcome
    bootstrap_value, logits, values = values[-1], logits[:-1], values[:-1]
    returns = vtrace.corrected_returns(
      h.correction,
      behaviour_policy_logits=behaviour.policy_logits,
      target_policy_logits=logits,
      actions=behaviour.action,
      discounts=tf.where(done, 0.0, h.discounting),
      rewards=losses.clip_rewards(h.reward_scale * reward, h.reward_clipping),
      values=values,
      bootstrap_value=bootstrap_value,
      clip_rho_threshold=h.clip_rho_threshold,
      clip_pg_rho_threshold=h.clip_pg_rho_threshold,
      clip_c_threshold=h.clip_c_threshold,
      lambda_=h.lambda_,
      q_estimate=h.q_estimate,
    )
    return (
      losses.policy_gradient_loss(
        logits,
        behaviour.action,
        returns.pg_advantages,
        epsilon=1e-6 if h.correction == 'epsilon' else 0.0,
      ),
      h.baseline_cost * losses.baseline_loss(returns.vs, values),
      h.entropy_cost * losses.entropy_loss(logits),
    )
