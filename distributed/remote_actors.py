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
_GATHER_SECONDS = 0.003  # Actors of one batch of inference are as near.


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
    variables = agent.trainable_variables
    specs = remote_pool.variable_specs(variables)
    self._decode = codec.Decoder(specs)

    @tf.function(autograph=False, input_signature=specs)
    def assign(*values):
      for variable, value in zip(variables, values, strict=True):
        variable.assign(value)

    self._assign = assign
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
    """Waits for unrolls; those that end at about the same time go together."""
    unrolls, size, waited = [], 0, False
    while (
      len(unrolls) < remote_pool.MAXIMUM_UNROLLS
      and size < remote_pool.ENOUGH_BYTES
    ):
      if unrolls and not int(self._pool.queue.size()):
        if waited:
          break
        time.sleep(_GATHER_SECONDS)
        waited = True
        continue
      number, *tensors = self._pool.queue.dequeue()
      # Its number is that among the actors of all processes.
      unrolls.append(codec.encode([number + self._first, *tensors]))
      size += len(unrolls[-1])
      waited = False
    return unrolls

  def _exchange(self, unrolls):
    version, parameters = self._learner.exchange(unrolls, self._pool.totals())
    if parameters:
      self._assign(*self._decode(parameters))
    self._version.assign(version)

  def _permit(self, count):
    self._pool.permits.enqueue_many(tf.zeros([count], tf.int32))
