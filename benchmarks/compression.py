"""What `--compress_unrolls` saves and costs, with frames of real levels.

Encodes the frames of an unroll of random play; tells how many times smaller
they get, and the megabytes of frames a second of CPU in both directions. From
the repository's root:

  python -m impala.benchmarks.compression
"""

import time

import numpy as np
from absl import app, flags

from impala.benchmarks import machine
from impala.distributed import codec
from impala.environments import protocol, registry

FLAGS = flags.FLAGS
flags.DEFINE_list(
  'levels', 'doom_basic,doom_health_gathering,atari_breakout', 'To play.'
)
flags.DEFINE_integer('steps', 21, 'In an unroll.')
flags.DEFINE_integer('past', 100, 'Steps before it.')
flags.DEFINE_integer('calls', 20, 'That times are taken of.')
flags.DEFINE_string(
  'output', 'benchmarks/results/compression.json', 'For the results.'
)


def _play(level):
  """Returns frames [steps, height, width, channels]."""
  options = protocol.Options(num_action_repeats=4, seed=1)
  environment = registry.make(level, options)
  random = np.random.default_rng(0)
  frames = [environment.reset().frame]
  while len(frames) < FLAGS.past + FLAGS.steps:
    step = environment.step(int(random.integers(environment.spec.num_actions)))
    frame = environment.reset() if step.over else step.observation
    frames.append(frame.frame)
  environment.close()
  return np.stack(frames[-FLAGS.steps :])


def _rate(function, megabytes):
  began = time.process_time()
  for _ in range(FLAGS.calls):
    function()
  return round(FLAGS.calls * megabytes / (time.process_time() - began))


def _measure(level):
  data = _play(level).tobytes()
  compressed = codec.compress(data)
  megabytes = len(data) / 1e6
  return {
    'level': level,
    'times_smaller': round(len(data) / len(compressed), 1),
    'compress_megabytes_per_second': _rate(
      lambda: codec.compress(data), megabytes
    ),
    'decompress_megabytes_per_second': _rate(
      lambda: codec.decompress(compressed, len(data)), megabytes
    ),
  }


def main(_):
  results = []
  for level in FLAGS.levels:
    results.append(_measure(level))
    print(results[-1], flush=True)
  machine.write(FLAGS.output, results)


if __name__ == '__main__':
  app.run(main)
