import json

import pytest

from impala import schedule, score_files


@pytest.fixture
def make_run(tmp_path):
  """Makes a log directory."""

  def make_run(name, level, seed=1, returns=None, frames=1000, **config):
    logdir = tmp_path / name
    logdir.mkdir()
    (logdir / 'config.json').write_text(
      json.dumps(
        {'level_name': level, 'seed': seed, 'logdir': str(logdir), **config}
      )
    )
    rows = '\n'.join(
      f'{frames * i // 5},{i},{seed * i if i > 1 else ""}' for i in range(1, 6)
    )
    (logdir / 'metrics.csv').write_text(
      f'environment_frames,seconds,episode_return\n{rows}\n'
    )
    if returns:
      results = [
        schedule.Result(schedule.Episode(level, number), value, 10)
        for level, values in returns.items()
        for number, value in enumerate(values)
      ]
      score_files.write(
        logdir,
        {
          'checkpoint': 'ckpt-5',
          'environment_frames': frames,
          'policy': 'sampled',
          **score_files.score(results, 'paper'),
        },
      )
    return logdir

  return make_run
