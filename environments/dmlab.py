"""DeepMind Lab."""

import difflib

import numpy as np

from impala.environments import dmlab30, level_cache, protocol

# [look_lr, look_ud, strafe, move, fire, jump, crouch].
ACTIONS = np.array(
  [
    [0, 0, 0, 1, 0, 0, 0],
    [0, 0, 0, -1, 0, 0, 0],
    [0, 0, -1, 0, 0, 0, 0],
    [0, 0, 1, 0, 0, 0, 0],
    [-20, 0, 0, 0, 0, 0, 0],
    [20, 0, 0, 0, 0, 0, 0],
    [-20, 0, 0, 1, 0, 0, 0],
    [20, 0, 0, 1, 0, 0, 0],
    [0, 0, 0, 0, 1, 0, 0],
  ],
  dtype=np.intc,
)
ACTION_NAMES = (
  'forward',
  'backward',
  'strafe left',
  'strafe right',
  'look left',
  'look right',
  'forward, look left',
  'forward, look right',
  'fire',
)

# Separates the seeds of tests from those of training.
TEST_MIXER_SEED = 0x600D5EED


class DmLab:
  """One level of DeepMind Lab.

  Args:
    level_name: A DMLab-30 level (train or test name), a classic level, or a
      path such as 'contributed/dmlab30/rooms_watermaze'.
    options: How to make it.
  """

  def __init__(self, level_name: str, options: protocol.Options):
    try:
      import deepmind_lab
    except ImportError as error:
      raise protocol.UserError(
        f'Level {level_name!r} is taken for one of DeepMind Lab, which is not'
        ' installed: build it from source as its documentation says,'
        ' https://github.com/google-deepmind/lab. Other environments are named'
        ' doom_<scenario>, atari_<game> and gym:<id>.'
      ) from error
    if options.width % 4 or options.height % 4:
      raise protocol.UserError(
        "DeepMind Lab's --width and --height must be multiples of 4, not"
        f' {options.width} and {options.height}.'
      )

    config = {
      'width': str(options.width),
      'height': str(options.height),
      'logLevel': 'WARN',  # Lua talks on stdout otherwise.
    }
    if options.dataset_path:
      config['datasetPath'] = options.dataset_path
    if options.test or level_name.endswith('_test'):
      config['allowHoldOutLevels'] = 'true'
    if options.test:
      config['mixerSeed'] = str(TEST_MIXER_SEED)

    cache = None
    if options.level_cache_dir:
      cache = level_cache.LevelCache(options.level_cache_dir)
    level = level_name
    if dmlab30.is_level(level_name):
      level = f'contributed/dmlab30/{level_name}'
    try:
      self._lab = deepmind_lab.Lab(
        level,
        ['RGB_INTERLEAVED', 'INSTR'],
        config=config,
        renderer=options.renderer,
        level_cache=cache,
      )
    except RuntimeError as error:
      if 'psychlab' in level_name:
        remedy = 'Name the folder of its data set with --dataset_path.'
      elif level == level_name:
        remedy = _near_names(level_name)
      else:  # A level of the suite exists, so this is no mistake in its name.
        raise
      raise protocol.UserError(
        f'DeepMind Lab refuses level {level_name!r}: {error}. {remedy}'
      ) from error

    self.spec = protocol.Spec(
      frame_shape=(options.height, options.width, 3),
      num_actions=len(ACTIONS),
      has_instruction=True,
      action_names=ACTION_NAMES,
    )
    self._num_action_repeats = options.num_action_repeats
    self._episode_seeds = iter(options.episode_seeds)
    self._seeds = np.random.RandomState(options.seed)

  def reset(self) -> protocol.Observation:
    """Starts the next episode, on a seed of its own."""
    seed = next(self._episode_seeds, None)
    if seed is None:
      seed = self._seeds.randint(2**31 - 1)
    self._lab.reset(seed=int(seed))  # A Python int that fits a C int.
    return self._observe()

  def step(self, action: int) -> protocol.Step:
    """Applies one of ACTIONS; the last step of an episode may be shorter."""
    reward = self._lab.step(ACTIONS[action], num_steps=self._num_action_repeats)
    over = not self._lab.is_running()
    # The engine has nothing to show once an episode is over.
    observation = None if over else self._observe()
    return protocol.Step(float(reward), over, over, observation)

  def close(self) -> None:
    """Ends the engine, which otherwise leaves a temporary folder behind."""
    lab, self._lab = self._lab, None
    if lab is not None:
      lab.close()

  def _observe(self) -> protocol.Observation:
    observations = self._lab.observations()
    return protocol.Observation(
      observations['RGB_INTERLEAVED'], observations['INSTR']
    )


def _near_names(level_name: str) -> str:
  names = sorted({*dmlab30.TRAIN_LEVELS, *dmlab30.TEST_LEVELS})
  close = difflib.get_close_matches(level_name, names)
  return f'The suite (dmlab30) has: {", ".join(close or names)}.'
