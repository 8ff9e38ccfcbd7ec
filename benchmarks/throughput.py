"""How much CPU the whole costs beside its parts.

Measures in turns, in CPU milliseconds an agent step, the environment, inference
and the learner alone, then all of them at work. CPU time, and not seconds, so
that a busy machine changes little. From the repository's root:

  python -m impala.benchmarks.throughput \
      --output=benchmarks/results/throughput.json
"""

import os
import pathlib
import statistics
import sys
import time

import numpy as np
import psutil
import tensorflow as tf
from absl import app, flags

from impala import actor_pool, batches, learner
from impala.benchmarks import machine
from impala.environments import process, protocol, registry
from impala.networks import agent as agents

FLAGS = flags.FLAGS
flags.DEFINE_list(
  'levels', 'gym:costless:Costless-v0,doom_basic', 'What to act in.'
)
flags.DEFINE_list('networks', 'shallow,deep', 'What to act with.')
flags.DEFINE_integer('num_actors', 16, 'Environments at once.')
flags.DEFINE_integer('batch_size', 8, 'Unrolls in a batch.')
flags.DEFINE_integer('unroll_length', 20, 'Agent steps in an unroll.')
flags.DEFINE_integer('inference_batch', 8, 'Alone, and at least in the whole.')
flags.DEFINE_float('seconds', 10.0, 'Of each measurement.')
flags.DEFINE_integer('rounds', 3, 'Of all measurements; medians are told.')
flags.DEFINE_string('output', None, 'A JSON file for the results.')


def _options(index):
  return protocol.Options(num_action_repeats=4, seed=index)


def _cpu_seconds():
  """CPU time of this process and of all below it that are alive."""
  this = psutil.Process()
  total = 0.0
  for member in [this, *this.children(recursive=True)]:
    times = member.cpu_times()
    total += times.user + times.system
  return total


def _milliseconds_a_step(work, steps):
  """CPU time of an agent step of `work`, which makes `steps` at each call."""
  for _ in range(3):
    work()
  calls, began, cpu = 0, time.monotonic(), _cpu_seconds()
  while time.monotonic() - began < FLAGS.seconds:
    work()
    calls += 1
  return 1000 * (_cpu_seconds() - cpu) / (calls * steps)


def _environment_alone(level):
  environment = registry.make(level, _options(0))
  environment.reset()
  random = np.random.default_rng(0)

  def step():
    action = int(random.integers(environment.spec.num_actions))
    if environment.step(action).over:
      environment.reset()

  try:
    return _milliseconds_a_step(step, 1)
  finally:
    environment.close()


def _inference_alone(agent, batch):
  rows = FLAGS.inference_batch
  entry = tf.nest.map_structure(
    lambda t: tf.repeat(t[0][:1], rows, axis=0),
    (batch.agent_outputs.action, batch.env_outputs),
  )
  act = tf.function(agent, autograph=False)
  state, noise = agent.initial_state(rows), tf.zeros([rows])
  return _milliseconds_a_step(lambda: act(*entry, state, noise), rows)


class _Whole:
  """Actors and a learner at work, without records and checkpoints."""

  def __init__(self, level, network):
    self._launcher = process.Launcher()
    processes = [self._start(level, i) for i in range(FLAGS.num_actors)]
    spec = processes[0].wait_ready(60)
    self.agent = agents.make_agent(network, spec)
    steps = FLAGS.batch_size * FLAGS.unroll_length
    self.learner = learner.Learner(
      self.agent,
      learner.Hyperparameters(
        total_environment_frames=1e9,
        frames_per_update=4 * steps,
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
    self._pool = actor_pool.ActorPool(
      self.agent,
      spec,
      self.learner.updates,
      lambda index, attempt: self._start(level, index),
      unroll_length=FLAGS.unroll_length,
      batching={
        'minimum_batch_size': FLAGS.inference_batch,
        'maximum_batch_size': FLAGS.num_actors,
        'timeout_ms': 10,
      },
      timeout=60.0,
      lockstep=False,
    )
    take = batches.dequeuer(
      self._pool.queue, self._pool.specs, FLAGS.batch_size
    )
    self._stream = batches.BatchStream(
      take, self._pool.specs, FLAGS.batch_size, '/cpu:0'
    )
    self._stream.start()
    self._pool.start(processes)

  def _start(self, level, index):
    return self._launcher.start(level, _options(index))

  def update(self):
    batch = self._stream.get()
    self.learner.update(batch)
    return batch

  def batch_fill(self):
    totals = self._pool.totals()
    return totals.batched_rows / totals.batches

  def close(self):
    self._pool.close()
    while self._stream.get() is not None:
      pass
    self._launcher.close()


def _measure(level, network):
  """One round; CPU milliseconds an agent step."""
  steps = FLAGS.batch_size * FLAGS.unroll_length
  whole = _Whole(level, network)
  try:
    batch = whole.update()
    total = _milliseconds_a_step(whole.update, steps)
    fill = whole.batch_fill()
  finally:
    whole.close()
  return {
    'environment': _environment_alone(level),
    'inference': _inference_alone(whole.agent, batch),
    'learner': _milliseconds_a_step(lambda: whole.learner.update(batch), steps),
    'whole': total,
    'batch_fill': fill,
  }


def main(_):
  # The costless environment is a module beside this one.
  os.environ['PYTHONPATH'] = str(pathlib.Path(__file__).parent)
  sys.path.append(os.environ['PYTHONPATH'])
  results = []
  for level in FLAGS.levels:
    for network in FLAGS.networks:
      rounds = [_measure(level, network) for _ in range(FLAGS.rounds)]
      row = {
        name: round(statistics.median(r[name] for r in rounds), 4)
        for name in rounds[0]
      }
      parts = row['environment'] + row['inference'] + row['learner']
      row |= {'level': level, 'network': network, 'parts': round(parts, 4)}
      row['ratio'] = round(row['whole'] / parts, 3)
      results.append(row)
      print(row, flush=True)
  if FLAGS.output:
    machine.write(FLAGS.output, results)


if __name__ == '__main__':
  app.run(main)
