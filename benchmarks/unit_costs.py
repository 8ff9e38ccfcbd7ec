"""What a trajectory, parameters, a step and an all-reduce cost here.

For each network, in turns: bytes, and CPU time of the learner's and of the
actor's process, of unrolls that are sent over loopback, without parameters and
with newer ones in reply; CPU time of inference, of an update, and of an
all-reduce by two learners. CPU time, so that other work on the machine matters
less. `benchmarks/scaling.py` predicts from these. From the repository's root:

  python -m impala.benchmarks.unit_costs
"""

import multiprocessing
import os
import statistics
import threading
import time

import numpy as np
import psutil
import tensorflow as tf
from absl import app, flags

from impala import actor, batches, learner
from impala.benchmarks import machine, transport
from impala.distributed import client, codec, remote_pool, synchronous
from impala.environments import protocol
from impala.networks import agent as agents

FLAGS = flags.FLAGS
flags.DEFINE_integer('exchanges', 64, 'Unrolls sent in a measurement.')
flags.DEFINE_integer('reductions', 20, 'In a measurement.')
flags.DEFINE_integer('inferences', 200, 'In a measurement.')
flags.DEFINE_integer('updates', 2, 'In a measurement.')
FLAGS.set_default('output', 'benchmarks/results/unit_costs.json')
FLAGS.set_default('rounds', 3)

NETWORKS = ('shallow', 'deep')
SPEC = protocol.Spec((72, 96, 3), 9, 'uint8', has_instruction=True)
UNROLL_LENGTH = 100
CLIENTS = 16  # That fetch what was encoded once, and make a batch.
UPDATE_BATCH = 4  # More needs gigabytes with the deep network.


def make(network):
  agent = agents.make_agent(network, SPEC)
  return agent, actor.trajectory_specs(agent, SPEC, UNROLL_LENGTH)


def parameters(agent):
  return b''.join(
    codec.encode([v.read_value() for v in agent.trainable_variables])
  )


def learner_process(connection, network):
  """Takes batches; tells its CPU time and updates when asked."""
  transport.pin(0)
  agent, specs = make(network)
  updates = tf.Variable(0, dtype=tf.int64)
  variables = agent.trainable_variables
  pool = remote_pool.RemotePool(
    specs, SPEC.num_actions, variables, updates, CLIENTS, 'localhost:0'
  )
  pool.start()
  updating = threading.Event()

  def take():
    while True:
      pool.take_batch()
      if updating.is_set():
        updates.assign_add(1)

  threading.Thread(target=take, daemon=True).start()
  connection.send(pool.address)
  while (task := connection.recv()) is not None:
    if task:
      updating.set()
    else:
      updating.clear()
    connection.send((time.process_time(), int(updates)))
  os._exit(0)  # The server would wait for its thread.


def actor_process(connection, network):
  """Sends unrolls for many actors, and assigns what parameters come back."""
  transport.pin(-1)
  agent, specs = make(network)
  variables = agent.trainable_variables
  unroll = [tf.constant(array) for array in transport.make_unroll(specs)]
  signature = remote_pool.run_signature(specs, variables)
  decode = codec.Decoder(remote_pool.variable_specs(variables))
  address = connection.recv()
  senders = [
    client.LearnerClient(address, task, signature) for task in range(CLIENTS)
  ]
  while (exchanges := connection.recv()) is not None:
    fetches, began = 0, time.process_time()
    for i in range(exchanges):
      _, fetched = senders[i % CLIENTS].exchange(
        [codec.encode(unroll)], transport.TOTALS
      )
      if fetched:
        fetches += 1
        for variable, value in zip(variables, decode(fetched), strict=True):
          tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)
    connection.send((time.process_time() - began, fetches))
  os._exit(0)


def reducing_process(connection, network, addresses, task):
  """One of two learners that add up gradients."""
  transport.pin(-task)
  group = synchronous.Group(addresses, task)
  variables = make(network)[0].trainable_variables
  reduce = tf.function(
    lambda: group.run(lambda _: group.sum([v.read_value() for v in variables])),
    autograph=False,
  )
  reduce()
  connection.send(None)
  while (count := connection.recv()) is not None:
    cpu, began = time.process_time(), time.monotonic()
    for _ in range(count):
      reduce()
    connection.send((time.process_time() - cpu, time.monotonic() - began))
  os._exit(0)


class Processes:
  """Processes, each with a connection to this one."""

  def __init__(self, *targets):
    spawn = multiprocessing.get_context('spawn')
    self.ends = []
    for target, *arguments in targets:
      near, far = spawn.Pipe()
      spawn.Process(target=target, args=(far, *arguments), daemon=True).start()
      self.ends.append(near)

  def ask(self, index, question):
    self.ends[index].send(question)
    return self.ends[index].recv()

  def close(self):
    for end in self.ends:
      end.send(None)


class Network:
  """All measurements with one network."""

  def __init__(self, network):
    self._agent, specs = make(network)
    self._exchange = Processes(
      (learner_process, network), (actor_process, network)
    )
    self._exchange.ends[1].send(self._exchange.ends[0].recv())
    addresses = [f'localhost:{transport.free_port()}' for _ in range(2)]
    self._group = Processes(
      *((reducing_process, network, addresses, task) for task in range(2))
    )
    for end in self._group.ends:
      end.recv()
    unroll = transport.make_unroll(specs)
    self._batch = tf.nest.map_structure(
      tf.convert_to_tensor,
      batches.stack([unroll] * UPDATE_BATCH, specs, np.stack),
    )
    self._learner = learner.Learner(
      self._agent,
      learner.Hyperparameters(
        total_environment_frames=1e9,
        frames_per_update=1,
        discounting=0.99,
        entropy_cost=0.01,
        baseline_cost=0.5,
        reward_clipping='abs_one',
        learning_rate=1e-5,
        decay=0.99,
        momentum=0.0,
        epsilon=0.1,
      ),
    )
    row = tf.nest.map_structure(
      lambda t: t[0][:1],
      (self._batch.agent_outputs.action, self._batch.env_outputs),
    )
    act = tf.function(self._agent, autograph=False)
    state, noise = self._agent.initial_state(1), tf.zeros([1])
    self._act = lambda: act(*row, state, noise)
    self.sizes = {
      'network': network,
      'unroll_length': UNROLL_LENGTH,
      'update_batch': UPDATE_BATCH,
      'trajectory_bytes': codec.size(codec.encode(unroll)),
      'parameter_bytes': len(parameters(self._agent)),
    }
    self.measure(warm=True)

  def measure(self, warm=False):
    """Returns CPU milliseconds of one of each, by name."""

    def times(count):
      return 1 if warm else count

    def cpu(work, count):
      began = time.process_time()
      for _ in range(times(count)):
        work()
      return (time.process_time() - began) / times(count)

    seconds = {
      'encoding': cpu(lambda: parameters(self._agent), 20),
      'inference_step': cpu(self._act, FLAGS.inferences),
      'update_step': cpu(
        lambda: self._learner.update(self._batch), FLAGS.updates
      )
      / (UPDATE_BATCH * UNROLL_LENGTH),
    }
    plain = self._send(False)
    newer = self._send(True)
    encoding = newer['updates'] * seconds['encoding']
    fetches = newer['fetches']
    for side, other in (('learner', encoding), ('actor', 0.0)):
      seconds[f'{side}_trajectory'] = plain[side] / FLAGS.exchanges
      more = newer[side] - plain[side] - other
      seconds[f'{side}_fetch'] = more / fetches
    return {
      f'{name}_cpu_milliseconds': 1e3 * value for name, value in seconds.items()
    } | self._reduce(times(FLAGS.reductions))

  def _send(self, updating):
    cpu, updates = self._exchange.ask(0, updating)
    actor_cpu, fetches = self._exchange.ask(1, FLAGS.exchanges)
    cpu_then, updates_then = self._exchange.ask(0, False)
    return {
      'learner': cpu_then - cpu,
      'actor': actor_cpu,
      'fetches': fetches,
      'updates': updates_then - updates,
    }

  def _reduce(self, count):
    before = psutil.net_io_counters(pernic=True)['lo'].bytes_sent
    for end in self._group.ends:
      end.send(count)
    cpu, wall = zip(*(end.recv() for end in self._group.ends), strict=True)
    sent = psutil.net_io_counters(pernic=True)['lo'].bytes_sent - before
    return {
      'reduction_cpu_milliseconds': 1e3 * sum(cpu) / 2 / count,
      'reduction_wall_milliseconds': 1e3 * max(wall) / count,
      'reduction_bytes_sent': sent / 2 / count,
    }

  def close(self):
    self._exchange.close()
    self._group.close()


def main(_):
  networks = [Network(name) for name in NETWORKS]
  rounds = [[n.measure() for n in networks] for _ in range(FLAGS.rounds)]
  results = []
  for network, rows in zip(networks, zip(*rounds, strict=True), strict=True):
    medians = {
      name: float(f'{statistics.median(r[name] for r in rows):.4g}')
      for name in rows[0]
    }
    results.append({**network.sizes, **medians})
    print(results[-1], flush=True)
    network.close()
  machine.write(FLAGS.output, results)


if __name__ == '__main__':
  app.run(main)
