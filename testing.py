"""`--mode=test`, put together from its parts: how well an agent plays."""

import contextlib
import hashlib
import json
import pathlib
import re
import time
from collections.abc import Collection

from impala import (
  checkpoints,
  disk,
  evaluation,
  progress,
  schedule,
  score_files,
  stop_signals,
  test_log,
  tournament,
  video,
)
from impala.environments import dmlab30, process, protocol, registry
from impala.networks import agent as agents

# With these a run is tested as it was trained, unless a flag says otherwise.
_AS_TRAINED = (
  'level_name',
  'network',
  'num_action_repeats',
  'width',
  'height',
  'num_actors',
  'dataset_path',
  'renderer',
  'level_cache_dir',
  'environment_timeout_secs',
)


def test(config, given: Collection[str]) -> None:
  """Plays `config.test_num_episodes` a level; writes and prints the scores.

  Args:
    config: Has experiment.py's flags as attributes.
    given: The names of the flags that the user gave.

  Raises:
    UserError: What is asked for can't be done; the message has the remedy.
    EnvironmentFailure: A level does not start, or keeps failing.
    KeyboardInterrupt: A signal came before an episode was played.
  """
  logdir = pathlib.Path(config.logdir)
  if config.all_checkpoints and config.checkpoint:
    raise protocol.UserError(
      '--all_checkpoints tests all of them: leave --checkpoint out.'
    )
  if config.video:
    video.require()
  if config.all_checkpoints:
    paths = checkpoints.kept(logdir)
  else:
    paths = [checkpoints.named(logdir, config.checkpoint)]
  trained = _read_config(logdir)
  for name in _AS_TRAINED:
    if name in trained and name not in given:
      setattr(config, name, _checked(logdir, config, name, trained[name]))
  if 'level_name' not in given:
    config.level_name = dmlab30.test_level(config.level_name)
  with contextlib.ExitStack() as cleanup:
    signals = cleanup.enter_context(stop_signals.StopSignals())
    launcher = process.Launcher()
    cleanup.callback(launcher.close)
    tester = _Tester(config, trained, logdir, launcher, signals)
    records = []
    for path in paths:
      record = tester.test(path)
      if record is None:
        print(f'Stopped by {signals.received}; the same command goes on.')
        return
      print(f'{record["checkpoint"]}:\n{score_files.table(record)}')
      records.append(record)
    score_files.write(logdir, records[-1])
    print(f'Scores: {logdir / "scores.json"}')
    if config.all_checkpoints:
      print(f'Tournament: {tournament.write(logdir, records)}')
    if config.video:
      tester.film(records[-1]['checkpoint'])


def _read_config(logdir):
  """Returns the flags that the run was trained with."""
  path = logdir / 'config.json'
  try:
    trained = json.loads(path.read_text(encoding='utf-8'))
    if not isinstance(trained, dict):
      raise ValueError('no flags')
  except FileNotFoundError:
    return {}
  except (OSError, ValueError) as error:
    raise _damaged(logdir, error) from error
  return trained


def _checked(logdir, config, name, value):
  """Returns a flag of the training, which must be of the flag's type."""
  usual = type(getattr(config, name))
  if isinstance(value, (int, float) if usual is float else usual):
    return value
  raise _damaged(logdir, f'{name} is {value!r}')


def _damaged(logdir, why):
  return protocol.UserError(
    f'{logdir / "config.json"} is damaged ({why}): delete it, and give the '
    'flags of the training (--network, --level_name) with --mode=test.'
  )


class _Tester:
  """Tests checkpoints of one run, with the same agent and environments."""

  def __init__(self, config, trained, logdir, launcher, signals):
    self._config = config
    self._logdir = logdir
    self._launcher = launcher
    self._signals = signals
    self._levels = registry.levels(config.level_name, test=True)
    # An agent of many games has the actions of all of them.
    self._full_action_space = 'atari57' in (
      trained.get('level_name'),
      config.level_name,
    )
    first = self._start(self._levels[0], [config.seed])
    try:
      self._spec = first.wait_ready(config.environment_timeout_secs)
    finally:
      process.close_all([first])
    if config.video and len(self._spec.frame_shape) != 3:
      raise protocol.UserError(
        f'--video needs images, but {self._levels[0]} gives vectors.'
      )
    self._agent = agents.from_flags(config, self._spec)

  def _start(self, level, seeds):
    options = registry.options(
      self._config,
      seed=seeds[0],
      episode_seeds=seeds,
      test=True,
      full_action_space=self._full_action_space,
    )
    return self._launcher.start(level, options)

  def _evaluator(self, num_environments):
    return evaluation.Evaluator(
      self._agent,
      self._spec,
      self._start,
      num_environments,
      self._config.seed,
      self._config.greedy,
      self._config.environment_timeout_secs,
    )

  def test(self, path) -> dict | None:
    """Scores a checkpoint; None where a signal came before the end."""
    config = self._config
    try:
      identity = self._identity(path)
      updates, frames = checkpoints.restore_agent(path, self._agent)
    except FileNotFoundError as error:
      raise protocol.UserError(
        f'{path} is gone: a training keeps the newest (--checkpoints_kept). '
        'Give the same command again.'
      ) from error
    episodes = [
      schedule.Episode(level, number)
      for level in self._levels
      for number in range(config.test_num_episodes)
    ]
    name = pathlib.Path(path).name
    with disk.writing(self._logdir):
      log = test_log.TestLog(self._logdir, identity, name)
    with contextlib.closing(log):
      if not self._play(episodes, log):
        return None
    return {
      'checkpoint': name,
      'learner_steps': updates,
      'environment_frames': frames,
      'level_name': config.level_name,
      'policy': 'greedy' if config.greedy else 'sampled',
      'seed': config.seed,
      'test_num_episodes': config.test_num_episodes,
      'references': config.references,
      **score_files.score(
        [log.results[episode] for episode in episodes], config.references
      ),
    }

  def _identity(self, path):
    """What an episode's outcome depends on beside its level and number."""
    config = self._config
    settings = [
      config.seed,
      config.greedy,
      config.num_action_repeats,
      config.width,
      config.height,
      self._full_action_space,
    ]
    content = pathlib.Path(f'{path}.index').read_bytes()  # Has checksums.
    return hashlib.sha256(json.dumps(settings).encode() + content).hexdigest()[
      :16
    ]

  def _play(self, episodes, log):
    """Plays what has not been played; returns whether all is now."""
    self._signals.wait(0)  # From here on, signals are waited for.
    left = [episode for episode in episodes if episode not in log.results]
    line = progress.ProgressLine()
    began, text = time.monotonic(), ''
    count = steps = total = 0
    played = self._evaluator(min(self._config.num_actors, max(len(left), 1)))
    for result in played.play(left, lambda: self._signals.wait(0)):
      with disk.writing(self._logdir):
        log.add(result)
      count += 1
      steps += result.length
      total += result.episode_return
      seconds = time.monotonic() - began
      text = progress.format_line(
        len(episodes) - len(left) + count,
        len(episodes),
        steps * self._config.num_action_repeats / seconds,
        total / count,
        seconds / count * (len(left) - count),
        unit='episodes',
      )
      line.show(text, last=count == len(left))
    if text and count < len(left):
      line.show(text, last=True)
    return count == len(left)

  def film(self, checkpoint: str) -> None:
    """Films the first episodes of each level, with the agent as it is."""
    config = self._config
    folder = self._logdir / 'videos'
    with disk.writing(folder):
      folder.mkdir(exist_ok=True)
    for level in self._levels:
      episodes = [
        schedule.Episode(level, number)
        for number in range(
          min(config.video_num_episodes, config.test_num_episodes)
        )
      ]
      name = re.sub(r'[^\w-]+', '_', f'{level}-{checkpoint}')
      path = folder / f'{name}.{config.video_format}'
      moments = self._evaluator(1).watch(
        episodes, lambda: self._signals.wait(0)
      )
      try:
        video.film(moments, self._spec, path)
      except evaluation.Stopped:
        print(f'Stopped by {self._signals.received}; the scores are written.')
        return
      except process.EnvironmentFailure as error:
        raise process.EnvironmentFailure(
          f'{error} The scores are written, and the same command films again.'
        ) from error
      print(f'Film: {path}')
