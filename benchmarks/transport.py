"""Trajectories over loopback: the service here beside TensorFlow's own RPC.

A learner's process takes unrolls, stacks them to batches and stages these, as
it does for the learner; an actor process sends them, `--unrolls_per_call` at a
time, as many as its environments have finished. Both ways in turns, the
learner's process on one core and the actor's on another. What is told is for
one core of the learner: megabytes a second of its CPU time, and a second of
wall time, which other work on the machine lowers. From the repository's root:

  python -m impala.benchmarks.transport
"""

import multiprocessing
import os
import socket
import statistics
import threading
import time

import numpy as np
import psutil
import tensorflow as tf
from absl import app, flags

from impala import actor, actor_pool, batches, staging
from impala.benchmarks import machine
from impala.distributed import client, codec, remote_pool
from impala.environments import protocol
from impala.networks import agent as agents

FLAGS = flags.FLAGS
flags.DEFINE_list('unrolls_per_call', '1,4,16', 'In a message.')
flags.DEFINE_integer('unrolls', 800, 'In a measurement.')
flags.DEFINE_integer('rounds', 5, 'Of all measurements; medians are told.')
flags.DEFINE_string(
  'output', 'benchmarks/results/transport.json', 'For the results.'
)

SPEC = protocol.Spec((72, 96, 3), 9, 'uint8')
UNROLL_LENGTH, BATCH_SIZE = 20, 8
TOTALS = actor_pool.Totals(1, 1, 1, 0.0, 0.0, 0.0, 0)


def make_specs():
  agent = agents.make_agent('shallow', SPEC)
  return agent, actor.trajectory_specs(agent, SPEC, UNROLL_LENGTH)


def make_unroll(specs):
  random = np.random.default_rng(0)

  def make(spec):
    if spec.dtype == tf.string:
      return np.full(spec.shape, b'', object)
    if spec.dtype == tf.uint8:
      return random.integers(0, 256, spec.shape, np.uint8)
    return np.zeros(spec.shape, spec.dtype.as_numpy_dtype)

  return [make(spec) for spec in tf.nest.flatten(specs)]


class OurLearner:
  def __init__(self):
    agent, specs = make_specs()
    updates = tf.Variable(0, dtype=tf.int64)
    self._pool = remote_pool.RemotePool(
      specs,
      SPEC.num_actions,
      agent.trainable_variables,
      updates,
      BATCH_SIZE,
      'localhost:0',
    )
    self._pool.start()
    self.address = self._pool.address
    self.take = self._pool.take_batch


class TheirLearner:
  """Takes unrolls with tf.distribute.experimental.rpc, into a queue."""

  def __init__(self):
    _, specs = make_specs()
    flat = tf.nest.flatten(specs)
    queue = tf.queue.FIFOQueue(
      1, [s.dtype for s in flat], [s.shape for s in flat]
    )

    @tf.function(input_signature=flat, autograph=False)
    def exchange(*tensors):
      with tf.control_dependencies([queue.enqueue(tensors)]):
        return tf.constant(0, tf.int64)

    self.address = f'localhost:{free_port()}'
    self._server = tf.distribute.experimental.rpc.Server.create(
      'grpc', self.address
    )
    self._server.register('exchange', exchange)
    self._server.start()
    self.take = batches.dequeuer(queue, specs, BATCH_SIZE)


class OurActor:
  def __init__(self, address):
    agent, specs = make_specs()
    self._unroll = codec.encode(make_unroll(specs))
    self.size = codec.size(self._unroll)
    signature = remote_pool.run_signature(specs, agent.trainable_variables)
    self._client = client.LearnerClient(address, 0, signature)

  def send(self, count):
    self._client.exchange([self._unroll] * count, TOTALS)


class TheirActor:
  def __init__(self, address):
    _, specs = make_specs()
    arrays = make_unroll(specs)
    self._unroll = [tf.constant(array) for array in arrays]
    self.size = codec.size(codec.encode(arrays))
    self._client = tf.distribute.experimental.rpc.Client.create('grpc', address)

  def send(self, count):
    for _ in range(count):
      result = self._client.call('exchange', self._unroll)
      assert result.is_ok(), result.get_error()


WAYS = {
  'service': (OurLearner, OurActor),
  'tf_rpc': (TheirLearner, TheirActor),
}


def free_port():
  with socket.socket() as free:
    free.bind(('localhost', 0))
    return free.getsockname()[1]


def pin(core):
  os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[core]})


def cpu_seconds():
  times = psutil.Process().cpu_times()
  return times.user + times.system


def learner_process(connection, way):
  """Takes batches; tells its CPU time when asked."""
  pin(0)
  learner = WAYS[way][0]()

  specs = batches.batch_specs(make_specs()[1], BATCH_SIZE)
  area = staging.StagingArea(specs, '/cpu:0')

  def take():
    while True:
      area.put(learner.take())
      area.get()

  threading.Thread(target=take, daemon=True).start()
  connection.send(learner.address)
  while connection.recv():
    connection.send(cpu_seconds())
  os._exit(0)  # The server would wait for its thread.


def actor_process(connection, way):
  """Sends as many unrolls in as many messages as it is asked for."""
  pin(-1)
  sender = WAYS[way][1](connection.recv())
  connection.send(sender.size)
  while task := connection.recv():
    messages, unrolls = task
    cpu, began = cpu_seconds(), time.monotonic()
    for _ in range(messages):
      sender.send(unrolls)
    connection.send((cpu_seconds() - cpu, time.monotonic() - began))
  os._exit(0)


class Pair:
  """A learner's and an actor's process."""

  def __init__(self, way):
    spawn = multiprocessing.get_context('spawn')
    self._ends = []
    for target in (learner_process, actor_process):
      near, far = spawn.Pipe()
      spawn.Process(target=target, args=(far, way), daemon=True).start()
      self._ends.append(near)
    learner, sender = self._ends
    sender.send(learner.recv())
    self._size = sender.recv()

  def measure(self, unrolls):
    """Returns megabytes a second: learner's CPU, actor's CPU, wall."""
    learner, sender = self._ends
    messages = FLAGS.unrolls // unrolls
    learner.send(True)
    before = learner.recv()
    sender.send((messages, unrolls))
    actor_cpu, wall = sender.recv()
    learner.send(True)
    megabytes = messages * unrolls * self._size / 1e6
    return [
      megabytes / seconds
      for seconds in (learner.recv() - before, actor_cpu, wall)
    ]

  def close(self):
    for end in self._ends:
      end.send(None)


def main(_):
  pairs = {way: Pair(way) for way in WAYS}
  counts = [int(count) for count in FLAGS.unrolls_per_call]
  measured = {(way, count): [] for way in WAYS for count in counts}
  for pair in pairs.values():  # To be warm.
    pair.measure(1)
  for _ in range(FLAGS.rounds):
    for (way, count), rates in measured.items():
      rates.append(pairs[way].measure(count))
  results = []
  for (way, count), rates in measured.items():
    medians = [round(statistics.median(r)) for r in zip(*rates, strict=True)]
    names = ('learner_cpu', 'actor_cpu', 'wall')
    results.append(
      {
        'way': way,
        'unrolls_per_call': count,
        'megabytes_per_second': dict(zip(names, medians, strict=True)),
      }
    )
    print(results[-1], flush=True)
  for pair in pairs.values():
    pair.close()
  machine.write(FLAGS.output, results)


if __name__ == '__main__':
  app.run(main)
