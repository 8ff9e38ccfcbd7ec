"""IMPALA: trains an agent, or tests one. `--help` lists the flags."""

import os
import pathlib
import sys
import types

# TensorFlow reads it when it is imported. Whatever matters is raised.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

from absl import app, flags, logging

from impala import losses, testing, training, vtrace
from impala.distributed import cluster, remote_actors
from impala.environments import dmlab30, process, protocol
from impala.networks import agent

FLAGS = flags.FLAGS

flags.DEFINE_enum('mode', 'train', ['train', 'test'], 'What to do.')
flags.DEFINE_string('logdir', '/tmp/agent', 'Where all of a run is kept.')
flags.DEFINE_string(
  'level_name',
  'explore_goal_locations_small',
  "A level as DeepMind Lab names it, 'dmlab30', 'doom_<scenario>', "
  "'atari_<game>', 'atari57' or 'gym:<id>'. Suites deal their levels to the "
  'actors round robin.',
)

# Testing.
flags.DEFINE_integer('test_num_episodes', 10, 'Episodes a level.', 1, 1_000_000)
flags.DEFINE_string(
  'checkpoint', '', "Which of --logdir's to test, by its name; '' the newest."
)
flags.DEFINE_bool('all_checkpoints', False, 'Whether to test all of them.')
flags.DEFINE_bool(
  'greedy', False, 'Take the most probable action instead of drawing one.'
)
flags.DEFINE_enum(
  'references',
  'paper',
  dmlab30.REFERENCES,
  "Whose random and human scores normalise DMLab-30's: Table B.1's or the "
  "released code's.",
)
flags.DEFINE_bool('video', False, 'Film the first episodes of each level.')
flags.DEFINE_integer('video_num_episodes', 3, 'How many of a level.', 1)
flags.DEFINE_enum('video_format', 'mp4', ['mp4', 'gif'], 'Of the films.')

# Distributed training.
flags.DEFINE_integer('task', -1, 'Task id; -1 for training in one process.')
flags.DEFINE_enum(
  'job_name', 'learner', ['learner', 'actor'], 'What a task does.'
)
flags.DEFINE_list(
  'learner_hosts',
  [],
  "Each learner's host:port; without, TF_CONFIG or --num_learners tell.",
)
flags.DEFINE_integer(
  'num_learners',
  0,
  'In a Slurm step: its first so many tasks are learners, the others actors.',
  0,
)
flags.DEFINE_integer('num_envs', 1, 'Environments of one actor process.', 1)
flags.DEFINE_bool(
  'compress_unrolls', False, 'Actors spend CPU on it to spare the network.'
)
flags.DEFINE_string('tls_authority', '', "PEM file: who signed the others'.")
flags.DEFINE_string('tls_certificate', '', 'PEM file: of this process.')
flags.DEFINE_string('tls_key', '', 'PEM file: its private key.')
flags.DEFINE_bool('insecure', False, 'Serve other machines without TLS, too.')

# Training.
flags.DEFINE_integer(
  'total_environment_frames', int(1e9), 'Frames to learn from.', 1
)
flags.DEFINE_integer('num_actors', 4, 'Environments to act in at once.', 1)
flags.DEFINE_integer('batch_size', 2, 'Unrolls in a batch.', 1)
flags.DEFINE_integer('unroll_length', 100, 'Agent steps in an unroll.', 1)
flags.DEFINE_integer('num_action_repeats', 4, 'Frames an action lasts.', 1)
flags.DEFINE_integer(
  'seed',
  1,
  'Of everything random. With one actor, acting and learning '
  'alternate, so that a seed gives the same run every time.',
  0,
)
flags.DEFINE_enum(
  'network',
  'deep',
  agent.NETWORKS,
  'The networks of Figure 3, and those of Appendix G.',
)

# Loss.
flags.DEFINE_float('entropy_cost', 0.00025, 'Weight of the entropy bonus.')
flags.DEFINE_float('baseline_cost', 0.5, 'Weight of the baseline loss.')
flags.DEFINE_float('discounting', 0.99, 'Discount a step.', 0.0, 1.0)
flags.DEFINE_enum(
  'reward_clipping',
  'abs_one',
  losses.REWARD_CLIPPINGS,
  'How rewards are bounded for learning; see losses.clip_rewards.',
)
flags.DEFINE_float(
  'reward_scale', 1.0, 'Rewards are multiplied by it before they are clipped.'
)
flags.DEFINE_enum(
  'correction',
  'v_trace',
  vtrace.CORRECTIONS,
  'Off-policy correction (Section 5.2.2).',
)
flags.DEFINE_float(
  'vtrace_lambda', 1.0, "V-trace's lambda (Remark 2).", 0.0, 1.0
)
flags.DEFINE_float(
  'clip_rho_threshold', 1.0, "V-trace's rho bar; inf for no clipping.", 0.0
)
flags.DEFINE_float(
  'clip_pg_rho_threshold', 1.0, 'The same for the policy gradient.', 0.0
)
flags.DEFINE_float('clip_c_threshold', 1.0, "V-trace's c bar.", 0.0)
flags.DEFINE_enum(
  'q_estimate',
  'v_trace',
  vtrace.Q_ESTIMATES,
  'q_s from the next V-trace target or from the next value (Appendix E.3).',
)

# Environments.
flags.DEFINE_string('dataset_path', '', "DeepMind Lab's data set (psychlab).")
flags.DEFINE_integer('width', 96, 'Of frames.', 1)
flags.DEFINE_integer('height', 72, 'Of frames.', 1)
flags.DEFINE_enum(
  'renderer', 'software', ['software', 'hardware'], "DeepMind Lab's."
)
flags.DEFINE_string(
  'level_cache_dir', '/tmp/level_cache', "For DeepMind Lab's compiled maps."
)
flags.DEFINE_float(
  'environment_timeout_secs',
  300.0,
  'After so long in one step or start, an environment process is replaced.',
  0.1,
)

# Optimizer.
flags.DEFINE_float(
  'learning_rate', 0.00048, 'At the start; it falls linearly to 0.', 0.0
)
flags.DEFINE_float('decay', 0.99, "RMSProp's decay.")
flags.DEFINE_float('momentum', 0.0, "RMSProp's momentum.")
flags.DEFINE_float('epsilon', 0.1, "RMSProp's epsilon.")
flags.DEFINE_float(
  'gradient_clipping',
  0.0,
  'Bound on the global gradient norm; 0 for none.',
  0.0,
)

# Inference.
flags.DEFINE_integer(
  'inference_minimum_batch',
  0,
  'Actors to wait for before inference runs; 0 for half of them.',
  0,
)
flags.DEFINE_integer(
  'inference_timeout_ms', 10, 'After so long, fewer actors are enough.', 0
)
flags.DEFINE_integer(
  'inference_threads',
  1,
  'Of an actor process: more are faster where it has cores for itself, and '
  'cost more where processes share them.',
  1,
)

# Records.
flags.DEFINE_float('report_interval_secs', 10.0, 'Between metrics.', 0.1)
flags.DEFINE_float(
  'checkpoint_interval_secs', 600.0, 'Between checkpoints.', 0.0
)
flags.DEFINE_integer('checkpoints_kept', 3, 'The newest so many.', 1)


def main(argv):
  """Plays the roles that the flags ask for."""
  # By default, app.run shows what TensorFlow has to tell of every checkpoint.
  logging.set_verbosity(logging.WARNING)
  if len(argv) > 1:
    sys.exit(f'impala: {argv[1]} is not a flag; --help lists them.')
  ours = FLAGS.get_key_flags_for_module(sys.modules[__name__])
  config = types.SimpleNamespace(**{flag.name: flag.value for flag in ours})
  try:
    if config.mode == 'test':
      testing.test(config, {flag.name for flag in ours if flag.present})
      return
    config = cluster.resolve(config)
    if config.job_name == 'actor':
      remote_actors.act(config)
    else:
      training.train(config)
  except (protocol.UserError, process.EnvironmentFailure) as error:
    sys.exit(f'impala: {error}')
  except KeyboardInterrupt:
    sys.exit('impala: stopped before it began; there is nothing to save.')


def _find(argument):
  """Lets `--flagfile=configs/…` name the package's own from any directory."""
  flag, _, path = argument.partition('=')
  if flag.lstrip('-') == 'flagfile' and not os.path.exists(path):
    ours = pathlib.Path(__file__).parent / path
    if ours.is_file():
      return f'--flagfile={ours}'
  return argument


def run():
  """The entry point `impala`."""
  if __name__ != '__main__':  # There, --help looks for what it shows.
    sys.modules['__main__'].__doc__ = __doc__
    sys.argv[0] = __name__
  app.run(main, argv=[_find(argument) for argument in sys.argv])


if __name__ == '__main__':
  run()
