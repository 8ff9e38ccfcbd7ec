"""The tables of a report: headers and rows of text."""

import csv
import pathlib
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from impala import score_files, scores
from impala.environments import atari57, dmlab30
from impala.report import records

_PAPER = pathlib.Path(__file__).parent.parent / 'paper'
# What the paper's scores are from: frames of training, test episodes a level.
_EFFORTS = {'dmlab30': (10_000_000_000, 500), 'atari57': (200_000_000, 200)}


class Table(NamedTuple):
  """Cells of text; the first column names the rows."""

  title: str
  header: Sequence[str]
  rows: Sequence[Sequence[str]]


def runs_table(runs: Sequence[records.Run]) -> Table:
  """Tells what the runs are."""
  rows = []
  for run in runs:
    metrics, config = run.metrics, run.config
    trained = 'seconds' in metrics
    rows.append(
      [
        str(run.logdir),
        str(config.get('level_name', '-')),
        str(config.get('network', '-')),
        str(config.get('seed', '-')),
        f'{metrics["environment_frames"][-1] if trained else run.frames:,.0f}',
        f'{metrics["seconds"][-1] / 3600:.2f}' if trained else '-',
        _number(metrics['episode_return'][-1]) if trained else '-',
      ]
    )
  header = ['run', 'level', 'network', 'seed', 'frames', 'hours', 'return']
  return Table('Runs', header, rows)


def level_table(run: records.Run) -> Table:
  """A run's scores by level, as Tables B.1 and C.1 have them."""
  levels = run.scores['levels']
  models = list(
    dict.fromkeys(m for row in levels.values() for m in row.get('paper', ()))
  )
  rows = [
    [
      level,
      str(row['episodes']),
      f'{row["mean_return"]:.1f} ± {_number(row["standard_error"])}',
      *(
        _number(row.get(name))
        for name in ('human_normalised_score', 'random', 'human')
      ),
      *(_number(row.get('paper', {}).get(model)) for model in models),
    ]
    for level, row in levels.items()
  ]
  header = [
    'level',
    'episodes',
    'return ± std. error',
    'score %',
    'random',
    'human',
    *(score_files.title(model) for model in models),
  ]
  scores_of = run.scores
  return Table(
    f'{run.logdir}: {scores_of["checkpoint"]}, {scores_of["policy"]} actions',
    header,
    rows,
  )


def paper_tables(runs: Sequence[records.Run]) -> list[Table]:
  """Returns the paper's Tables 3 and 4 with rows for the runs, where any."""
  tables = []
  tested = [run for run in runs if run.scores]
  rows = _suite_rows(tested, dmlab30.suite())
  if rows:
    tables.append(
      Table(
        'DMLab-30 (Table 3)',
        ['model', 'mean capped score %', ''],
        [
          *([*row, ''] for row in _published('table3_dmlab30.csv')),
          *([name, f'{a.mean_capped:.1f}', note] for name, a, note in rows),
        ],
      )
    )
  rows = _suite_rows(tested, atari57.suite())
  if rows:
    tables.append(
      Table(
        'Atari-57 (Table 4)',
        ['model', 'median score %', 'mean score %', ''],
        [
          *([*row, ''] for row in _published('table4_atari57.csv')),
          *(
            [name, f'{a.median:.1f}', f'{a.mean:.1f}', note]
            for name, a, note in rows
          ),
        ],
      )
    )
  return tables


def _published(name):
  with (_PAPER / name).open(newline='', encoding='utf-8') as file:
    return list(csv.reader(file))[1:]


def _suite_rows(runs, suite):
  """Returns (name, aggregate, note) for each run of the suite.

  Those of its single levels, the experts, are one for each network.
  """
  rows, experts = [], {}
  for run in runs:
    known = {
      level: row
      for level, row in run.scores['levels'].items()
      if _suite_name(level) == suite.name
    }
    if not known:
      continue
    if suite.name in (
      run.config.get('level_name'),
      run.scores.get('level_name'),
    ):
      rows.append(_suite_row(str(run.logdir), [(run, known)], suite))
    else:
      network = run.config.get('network', 'unknown network')
      experts.setdefault(network, []).append((run, known))
  for network, of_network in experts.items():
    names = ', '.join(str(run.logdir) for run, _ in of_network)
    rows.append(_suite_row(f'{network} experts: {names}', of_network, suite))
  return rows


def _suite_name(level):
  suite = score_files.suite_of(level, 'paper')
  return suite.name if suite else None


def _suite_row(name, runs, suite):
  by_level = {}
  for _, levels in runs:
    for level, row in levels.items():
      by_level.setdefault(dmlab30.test_level(level), []).append(
        row['human_normalised_score']
      )
  aggregate = scores.aggregate_scores(
    [statistics.fmean(of_level) for of_level in by_level.values()]
  )
  frames, episodes = _EFFORTS[suite.name]
  if runs[0][0].config.get('level_name') == 'atari57':
    frames *= len(suite.levels)  # Those of each game (Appendix G).
  notes = []
  if len(by_level) < len(suite.levels):
    notes.append(f'{len(by_level)} of {len(suite.levels)} levels')
  fewest = min(run.frames for run, _ in runs)
  if fewest < frames:
    notes.append(f'{fewest:,} of the {frames:,} frames of the paper')
  played = min(row['episodes'] for _, levels in runs for row in levels.values())
  if played < episodes:
    notes.append(f'{played} of its {episodes} episodes a level')
  if any(run.scores.get('references', 'paper') != 'paper' for run, _ in runs):
    notes.append("against the released code's references")
  return name, aggregate, '; '.join(notes)


def _number(value):
  return '-' if value is None or value != value else f'{value:.1f}'
