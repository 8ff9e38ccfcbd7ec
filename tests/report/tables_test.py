from impala.environments import atari57, dmlab30
from impala.report import records, tables


def test_table_3_with_a_run_and_what_it_lacks(make_run):
  results = dmlab30.suite().paper['impala_deep_pbt']
  returns = {level: [value, value] for level, value in results.items()}
  run = records.load(make_run('a', 'dmlab30', 1, returns))
  (table,) = tables.paper_tables([run])
  assert ['IMPALA, deep, PBT', '49.4', ''] in [list(r) for r in table.rows]
  name, score, note = table.rows[-1]
  assert (name, score) == (str(run.logdir), '49.3')
  assert '1,000 of the 10,000,000,000 frames' in note
  assert '2 of its 500 episodes' in note


def test_a_run_as_long_as_the_papers_has_no_note(make_run):
  results = dmlab30.suite().paper['impala_deep_pbt']
  returns = {level: [value] * 500 for level, value in results.items()}
  run = records.load(make_run('a', 'dmlab30', 1, returns, frames=10**10))
  (table,) = tables.paper_tables([run])
  assert table.rows[-1][-1] == ''


def test_experts_are_one_row_of_table_4(make_run):
  runs = [
    records.load(make_run(game, game, 1, {game: [value]}, network='n'))
    for game, value in (('atari_pong', 14.6), ('atari_breakout', 1.7))
  ]
  (table,) = tables.paper_tables(runs)
  name, median, mean, note = table.rows[-1]
  assert name.startswith('n experts: ')
  assert (median, mean) == ('50.0', '50.0')
  assert '2 of 57 levels' in note and '200,000,000 frames' in note


def test_experts_of_different_networks_do_not_mix(make_run):
  runs = [
    records.load(
      make_run(
        network, 'atari_pong', 1, {'atari_pong': [14.6]}, network=network
      )
    )
    for network in ('atari_deep', 'atari_shallow')
  ]
  (table,) = tables.paper_tables(runs)
  assert [row[0].split(':')[0] for row in table.rows[-2:]] == [
    'atari_deep experts',
    'atari_shallow experts',
  ]


def test_an_agent_of_all_games_sees_the_frames_of_all(make_run):
  results = atari57.suite().paper['impala_deep_multitask']
  returns = {level: [value] * 200 for level, value in results.items()}
  for frames, lacks in ((200_000_000, True), (57 * 200_000_000, False)):
    run = make_run(str(frames), 'atari57', 1, returns, frames=frames)
    (table,) = tables.paper_tables([records.load(run)])
    assert table.rows[-1][1] == '59.7'
    assert ('of the 11,400,000,000 frames' in table.rows[-1][-1]) == lacks
