"""Dynamic batching here beside TensorFlow's own batching op.

Callers share a small network, through `batch_fn_with_options` or through
`tf.nondifferentiable_batch_function`, in turns. They are loops inside
tf.functions, as actors are, or eager calls; each has a Python thread. From the
repository's root:

  python -m impala.benchmarks.dynamic_batching
"""

import statistics
import threading
import time

import tensorflow as tf
from absl import app, flags

from impala import dynamic_batching
from impala.benchmarks import machine

FLAGS = flags.FLAGS
flags.DEFINE_list('callers', '1,8,32,128', 'Concurrent callers.')
flags.DEFINE_list('modes', 'graph,eager', 'What the callers are.')
flags.DEFINE_integer('size', 128, 'Of a row, and of the network, in floats.')
flags.DEFINE_integer('maximum_batch_size', 128, 'Rows in a batch.')
flags.DEFINE_integer('loop', 100, 'Calls in one run of a tf.function.')
flags.DEFINE_float('seconds', 1.5, 'Of each measurement.')
flags.DEFINE_integer('rounds', 5, 'Of all measurements, in turns.')
flags.DEFINE_string(
  'output', 'benchmarks/results/dynamic_batching.json', 'For the results.'
)

OURS, THEIRS = 'batch_fn', 'batch_function'


def make_network():
  size = FLAGS.size
  weights = [
    tf.Variable(tf.random.stateless_normal([size, size], [0, layer]) * 0.1)
    for layer in range(2)
  ]

  def network(x):
    for w in weights:
      x = tf.tanh(tf.matmul(x, w))
    return x

  return network


def make_batched(implementation):
  """Returns the batched function for graphs, and the one for eager calls."""
  if implementation == OURS:
    batched = dynamic_batching.batch_fn_with_options(
      maximum_batch_size=FLAGS.maximum_batch_size
    )(make_network())
    return batched, batched
  batched = tf.nondifferentiable_batch_function(
    num_batch_threads=1,
    max_batch_size=FLAGS.maximum_batch_size,
    batch_timeout_micros=0,
    max_enqueued_batches=1000,
  )(make_network())
  # It traces anew at every call: eager callers had better wrap it.
  return batched, tf.function(batched)


def make_caller(implementation, mode):
  """Returns a function that calls the batched one a number of times."""
  in_graphs, eager = make_batched(implementation)
  row = tf.ones([1, FLAGS.size])
  if mode == 'eager':
    return lambda: eager(row), 1

  def body(i, x):
    x = in_graphs(x)
    x.set_shape(row.shape)  # Theirs does not know.
    return i + 1, x

  @tf.function(autograph=False)
  def loop():
    return tf.while_loop(
      lambda i, _: i < FLAGS.loop, body, (0, row), parallel_iterations=1
    )

  return loop, FLAGS.loop


def measure(caller, calls_each, num_callers, seconds):
  """Returns calls a second, and microseconds of CPU a call."""
  start = threading.Barrier(num_callers + 1)
  counts = [0] * num_callers
  deadline = 0.0

  def run(index):
    start.wait()
    while time.monotonic() < deadline:
      caller()
      counts[index] += calls_each

  threads = [
    threading.Thread(target=run, args=(index,)) for index in range(num_callers)
  ]
  for thread in threads:
    thread.start()
  deadline = time.monotonic() + seconds
  wall, cpu = time.perf_counter(), time.process_time()
  start.wait()
  for thread in threads:
    thread.join()
  wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
  return sum(counts) / wall, cpu / sum(counts) * 1e6


def main(_):
  implementations = [OURS, THEIRS]
  callers = {
    (implementation, mode): make_caller(implementation, mode)
    for implementation in implementations
    for mode in FLAGS.modes
  }
  for caller, calls_each in callers.values():
    measure(caller, calls_each, 2, 0.2)  # Traces, and warms up.
  rows = []
  print(
    f'{"mode":6} {"callers":>7}'
    + ''.join(f' {i + " calls/s":>22} {"CPU µs":>7}' for i in implementations)
    + f' {"ratio":>6} {"paired":>13}'
  )
  for mode in FLAGS.modes:
    for num_callers in map(int, FLAGS.callers):
      samples = {implementation: [] for implementation in implementations}
      for index in range(FLAGS.rounds):
        # Turn about, so that a drift of the machine's favours neither.
        for implementation in implementations[:: 1 - 2 * (index % 2)]:
          samples[implementation].append(
            measure(*callers[implementation, mode], num_callers, FLAGS.seconds)
          )
      ratios = [
        ours[0] / theirs[0]
        for ours, theirs in zip(samples[OURS], samples[THEIRS], strict=True)
      ]
      row = {'mode': mode, 'callers': num_callers}
      line = f'{mode:6} {num_callers:7}'
      for implementation in implementations:
        rate, cpu = map(
          statistics.median, zip(*samples[implementation], strict=True)
        )
        row[implementation] = {
          'calls_per_second': round(rate),
          'cpu_microseconds_per_call': round(cpu, 1),
          'samples': [
            (round(r), round(c, 1)) for r, c in samples[implementation]
          ],
        }
        line += f' {rate:22.0f} {cpu:7.1f}'
      row['speedup'] = round(statistics.median(ratios), 3)
      row['speedup_range'] = [round(min(ratios), 3), round(max(ratios), 3)]
      rows.append(row)
      print(
        f'{line} {row["speedup"]:6.2f} '
        f'{row["speedup_range"][0]:6.2f}{row["speedup_range"][1]:7.2f}',
        flush=True,
      )
  if FLAGS.output:
    machine.write(FLAGS.output, rows)


if __name__ == '__main__':
  app.run(main)
