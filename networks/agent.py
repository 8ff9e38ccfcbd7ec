"""The agent: a torso, mostly an LSTM, and heads for policy and baseline."""

import sonnet as snt
import tensorflow as tf

from impala import structures
from impala.environments import protocol
from impala.networks import instruction, recurrent, torsos

NETWORKS = ('deep', 'shallow', 'atari_deep', 'atari_shallow')

# There is nothing here to convert, and Sonnet's own code takes seconds of it.
_without_autograph = tf.autograph.experimental.do_not_convert


class Agent(snt.Module):
  """The networks of Figure 3 and Appendix G, with one interface.

  With a core, the agent sees its last action and the last reward, clipped to
  [-1, 1], beside the frame; without one (Atari), the frame alone.
  """

  def __init__(
    self,
    torso,
    num_actions,
    core=None,
    instruction_encoder=None,
    name='agent',
  ):
    """Makes the agent; its variables come with the first call.

    Args:
      torso: Maps frames `[N, ...]` to features `[N, F]`.
      num_actions: A.
      core: A `recurrent.ResettableLSTM`, or None.
      instruction_encoder: Maps strings `[N]` to features, or None; read only
        where there is a core.
      name: Of the module.
    """
    super().__init__(name=name)
    self._torso = torso
    self._num_actions = num_actions
    self._core = core
    self._instruction_encoder = instruction_encoder
    self._policy_head = snt.Linear(num_actions, name='policy_logits')
    self._baseline_head = snt.Linear(1, name='baseline')

  def initial_state(self, batch_size):
    """The core's state where an episode begins; `()` without a core."""
    return self._core.initial_state(batch_size) if self._core else ()

  @_without_autograph
  def __call__(self, last_actions, env_outputs, core_state, noise):
    """Chooses an action for each of a batch of environments.

    Args:
      last_actions: int32 `[B]`.
      env_outputs: A `structures.StepOutput` of `[B, ...]`.
      core_state: From `initial_state` or the last call.
      noise: Uniform in [0, 1), float32 `[B]`. The caller draws it, so that a
        run repeats however its steps were batched.

    Returns:
      A `structures.AgentOutput` of `[B, ...]`, and the new core state.
    """
    last_actions, env_outputs = tf.nest.map_structure(
      lambda t: tf.expand_dims(t, 0), (last_actions, env_outputs)
    )
    logits, baseline, core_state = self._run(
      last_actions, env_outputs, core_state
    )
    logits, baseline = logits[0], baseline[0]
    cumulative = tf.cumsum(tf.nn.softmax(logits), axis=-1)
    below = tf.cast(cumulative <= noise[:, tf.newaxis], tf.int32)
    # Rounding may leave the last sum below 1.
    action = tf.minimum(tf.reduce_sum(below, axis=-1), self._num_actions - 1)
    return structures.AgentOutput(action, logits, baseline), core_state

  @_without_autograph
  def unroll(self, last_actions, env_outputs, core_state):
    """Runs the agent over trajectories.

    Args:
      last_actions: int32 `[T, B]`; T must be known when tracing.
      env_outputs: A `structures.StepOutput` of `[T, B, ...]`.
      core_state: Before the first step.

    Returns:
      Policy logits, float32 `[T, B, A]`, and baseline, float32 `[T, B]`.
    """
    logits, baseline, _ = self._run(last_actions, env_outputs, core_state)
    return logits, baseline

  def _run(self, last_actions, env_outputs, core_state):
    features = snt.BatchApply(self._torso)(env_outputs.observation.frame)
    if self._core:
      inputs = [
        features,
        tf.clip_by_value(env_outputs.reward, -1.0, 1.0)[..., tf.newaxis],
        tf.one_hot(last_actions, self._num_actions),
      ]
      if self._instruction_encoder:
        encode = snt.BatchApply(self._instruction_encoder)
        inputs.append(encode(env_outputs.observation.instruction))
      features, core_state = self._core.unroll(
        tf.concat(inputs, axis=-1), env_outputs.done, core_state
      )
    logits = snt.BatchApply(self._policy_head)(features)
    baseline = snt.BatchApply(self._baseline_head)(features)
    return logits, tf.squeeze(baseline, -1), core_state


def make_agent(network, spec):
  """Makes the agent for an environment, with all of its variables.

  Args:
    network: One of `NETWORKS`. Environments whose frames are vectors have the
      recurrent agent with a small torso of their own, whatever it is.
    spec: The environment's `protocol.Spec`.

  Returns:
    An `Agent`.

  Raises:
    ValueError: If the network is unknown or cannot serve such frames.
  """
  if network not in NETWORKS:
    raise ValueError(
      f'Unknown network {network!r}; choose one of {", ".join(NETWORKS)}.'
    )
  torso = _make_torso(network, spec)
  if network.startswith('atari') and len(spec.frame_shape) == 3:
    agent = Agent(torso, spec.num_actions)
  else:
    agent = Agent(
      torso,
      spec.num_actions,
      core=recurrent.ResettableLSTM(256),
      instruction_encoder=(
        instruction.InstructionEncoder() if spec.has_instruction else None
      ),
    )
  _build(agent, spec)
  return agent


def from_flags(config, spec):
  """Makes the agent that experiment.py's flags name.

  Raises:
    UserError: The network cannot serve the environment.
  """
  try:
    return make_agent(config.network, spec)
  except ValueError as error:
    raise protocol.UserError(str(error)) from error


def _make_torso(network, spec):
  shape = tuple(spec.frame_shape)
  if len(shape) == 1 and spec.frame_dtype == 'float32':
    return torsos.VectorTorso()
  if len(shape) != 3 or spec.frame_dtype != 'uint8':
    raise ValueError(
      f'Frames are {spec.frame_dtype} {shape}; there are torsos for uint8 '
      '(height, width, channels) and float32 (features,): convert the '
      'observations in a wrapper.'
    )
  torso = {
    'shallow': torsos.shallow,
    'deep': torsos.deep,
    'atari_shallow': torsos.atari_shallow,
    'atari_deep': torsos.deep,
  }[network]()
  if min(shape[:2]) < torso.minimum_size:
    raise ValueError(
      f'Frames of shape {shape} are too small for the {network} network, which '
      f'needs {torso.minimum_size} pixels in height and width: render larger '
      'ones (--width, --height), or use --network=deep or atari_deep, which '
      'take any size.'
    )
  return torso


def _build(agent, spec):
  zero = tf.zeros([1])
  step = structures.StepOutput(
    reward=zero,
    info=structures.StepOutputInfo(
      episode_return=zero,
      episode_step=tf.zeros([1], tf.int32),
      episode_over=tf.zeros([1], tf.bool),
    ),
    done=tf.zeros([1], tf.bool),
    observation=structures.Observation(
      frame=tf.zeros([1, *spec.frame_shape], spec.frame_dtype),
      instruction=tf.constant(['']),
    ),
  )
  agent(tf.zeros([1], tf.int32), step, agent.initial_state(1), zero)
