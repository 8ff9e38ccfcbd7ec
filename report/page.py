"""The page: one HTML file that needs no other, and its pictures beside it."""

import base64
import html
import io
import pathlib

from matplotlib import pyplot as plt

from impala import disk
from impala.report import figures, records, tables

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 70em; margin: 2em auto;
  padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; }
th, td { text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
h2 { margin-top: 2em; }
"""


def write(logdirs, output) -> pathlib.Path:
  """Writes `index.html` and its pictures; returns the page's path.

  Args:
    logdirs: Of the runs.
    output: The folder, which is made.

  Raises:
    UserError: A log directory is none or damaged, or the disk is full or
      refuses.
  """
  unique = {pathlib.Path(path).resolve(): path for path in logdirs}
  runs = [records.load(logdir) for logdir in unique.values()]
  output = pathlib.Path(output)
  groups = records.group(runs)
  parts = [_table(tables.runs_table(runs))]
  with disk.writing(output):
    output.mkdir(parents=True, exist_ok=True)
    curves = figures.learning_curves(groups)
    if curves is not None:
      parts.append('<h2>Learning curves</h2>')
      parts.append(_picture(curves, output / 'learning_curves.png'))
    parts += [_table(table) for table in tables.paper_tables(runs)]
    for index, run in enumerate(runs):
      if run.scores is None:
        continue
      parts.append(_table(tables.level_table(run)))
      bars = figures.level_bars(run)
      if bars is not None:
        parts.append(_picture(bars, output / f'levels_{index}.png'))
    page = output / 'index.html'
    page.write_text(
      '<!doctype html><html lang="en"><head><meta charset="utf-8">'
      f'<title>IMPALA: report</title><style>{_STYLE}</style></head><body>'
      f'<h1>IMPALA: report</h1>{"".join(parts)}</body></html>\n',
      encoding='utf-8',
    )
  return page


def _table(table):
  lines = [
    ''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)
    for tag, cells in [('th', table.header), *(('td', r) for r in table.rows)]
  ]
  rows = ''.join(f'<tr>{line}</tr>' for line in lines)
  return f'<h2>{html.escape(table.title)}</h2><table>{rows}</table>'


def _picture(figure, path):
  """Writes a figure to `path`, and returns it as HTML that holds it."""
  data = io.BytesIO()
  figure.savefig(data, dpi=110, format='png')
  plt.close(figure)
  path.write_bytes(data.getvalue())
  text = base64.b64encode(data.getvalue()).decode()
  return f'<img alt="{path.stem}" src="data:image/png;base64,{text}">'
