from impala.report import records


def test_seeds_are_one_group(make_run):
  runs = [
    records.load(make_run(f'{seed}{rate}', 'doom_basic', seed, lr=rate))
    for seed in (1, 2)
    for rate in (0.1, 0.2)
  ]
  groups = records.group(runs)
  assert {label: len(of_group) for label, of_group in groups.items()} == {
    'doom_basic, lr=0.1': 2,
    'doom_basic, lr=0.2': 2,
  }


def test_runs_without_flags_are_not_seeds_of_each_other(make_run):
  runs = []
  for name in 'ab':
    logdir = make_run(name, 'doom_basic')
    (logdir / 'config.json').unlink()
    runs.append(records.load(logdir))
  assert list(records.group(runs)) == [str(run.logdir) for run in runs]


def test_frames_are_those_that_were_tested(make_run):
  run = make_run('a', 'doom_basic', 1, {'doom_basic': [1.0]}, frames=500)
  assert records.load(run).frames == 500
