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
