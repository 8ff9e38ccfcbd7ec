"""`--job_name=actor`: actors that learn nothing and send all to a learner."""

import contextlib
import threading
import time

import tensorflow as tf

from impala import local_actors, stop_signals
from impala.distributed import (
  client,
  cluster,
  codec,
  memory,
  remote_pool,
  tls,
)
from impala.environments import process
from impala.networks import agent as agents

_POLL_SECONDS = 0.1
_GATHER_SECONDS, _LOOK_SECONDS = 0.02, 0.001


def act(config) -> None:
  """Acts in `config.num_envs` environments until a signal comes.

  Args:
    config: Has experiment.py's flags as attributes.

  Raises:
    UserError: What is asked for can't be done; the message has the remedy.
    EnvironmentFailure: A level does not start, or keeps failing.
    KeyboardInterrupt: A signal came before it acted.
  """
  address = cluster.learner_of_actor(config)
  tf.config.threading.set_intra_op_parallelism_threads(config.inference_threads)
  tf.config.threading.set_inter_op_parallelism_threads(config.inference_threads)
  memory.keep_large_blocks()
  credentials = tls.channel_credentials(config)
  first = config.task * config.num_envs
  with contextlib.ExitStack() as cleanup:
    signals = cleanup.enter_context(stop_signals.StopSignals())
    launcher = process.Launcher()
    cleanup.callback(launcher.close)
    start = local_actors.make_starter(config, launcher, past=0, first=first)
    processes = [start(index) for index in range(config.num_envs)]
    cleanup.callback(process.close_all, processes)
    spec = processes[0].wait_ready(config.environment_timeout_secs)
    agent = agents.from_flags(config, spec)
    version = tf.Variable(0, dtype=tf.int64, trainable=False)
    pool = local_actors.make_pool(
      config, config.num_envs, agent, spec, version, start, lockstep=True
    )
    remote_pool.check_size(pool.specs)
    learner = client.LearnerClient(
      address,
      config.task,
      remote_pool.run_signature(pool.specs, agent.trainable_variables),
      credentials,
      config.compress_unrolls,
    )
    cleanup.callback(learner.close)
    sender = _Sender(learner, pool, agent, version, first, config.num_envs)
    signals.wait(0)  # From here on, signals are waited for.
    sender.start()
    try:
      pool.start(processes)
      while not signals.wait(_POLL_SECONDS):
        if error := pool.error or sender.error:
          raise error
    finally:
      learner.stop()
      pool.close()
      sender.join()
  print(f'Stopped by {signals.received}; {sender.sent} unrolls were sent.')


class _Sender(threading.Thread):
  """Sends a pool's unrolls, and fetches parameters before the next ones.

  Attributes:
    error: What ended it, or None. To be polled.
    sent: How many unrolls the learner has taken.
  """

  def __init__(self, learner, pool, agent, version, first, num_envs):
    super().__init__(daemon=True)
    self.error = None
    self.sent = 0
    self._learner = learner
    self._pool = pool
    self._variables = agent.trainable_variables
    self._decode = codec.Decoder(remote_pool.variable_specs(self._variables))
    self._version = version
    self._first = first
    self._num_envs = num_envs

  def run(self):
    try:
      self._learner.join()
      print('The learner bids welcome.', flush=True)
      self._exchange([])
      self._permit(self._num_envs)
      while True:
        unrolls = self._take()
        self._exchange(unrolls)
        self.sent += len(unrolls)
        self._permit(len(unrolls))
    except (client.Stopped, tf.errors.CancelledError):
      pass  # The pool is closed.
    except Exception as error:
      self.error = error

  def _take(self):
    """Waits for an unroll, and a little for those of the other environments.

    A message costs about as much as the unroll in it.
    """
    unrolls, size, deadline = [], 0, float('inf')
    while (
      len(unrolls) < remote_pool.MAXIMUM_UNROLLS
      and size < remote_pool.ENOUGH_BYTES
    ):
      if unrolls and not int(self._pool.queue.size()):
        if len(unrolls) >= self._num_envs or time.monotonic() > deadline:
          break
        time.sleep(_LOOK_SECONDS)
        continue
      number, *tensors = self._pool.queue.dequeue()
      if not unrolls:
        deadline = time.monotonic() + _GATHER_SECONDS
      # Its number is that among the actors of all processes.
      unrolls.append(codec.encode([number + self._first, *tensors]))
      size += codec.size(unrolls[-1])
    return unrolls

  def _exchange(self, unrolls):
    version, parameters = self._learner.exchange(unrolls, self._pool.totals())
    if parameters:
      values = self._decode(parameters)
      for variable, value in zip(self._variables, values, strict=True):
        # Variable.assign would copy arrays twice.
        tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)
    self._version.assign(version)

  def _permit(self, count):
    self._pool.permits.enqueue_many(tf.zeros([count], tf.int32))
