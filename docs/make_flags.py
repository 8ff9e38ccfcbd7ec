"""Writes docs/flags.md from the flags' definitions in experiment.py."""

import pathlib
import re
import sys

from absl import flags

from impala import experiment

_PAGE = pathlib.Path(__file__).with_name('flags.md')
_HEAD = """# Flags

Of `experiment.py`, written by `make docs` from the definitions, which `--help`
shows, too. A flag `--x` that is true or false is also given as `--nox`.
"""


def page() -> str:
  """Returns the page, its groups those of the comments in experiment.py."""
  source = pathlib.Path(experiment.__file__).read_text(encoding='utf-8')
  parts = [_HEAD, _group('A run')]
  found = re.finditer(
    r"^# (\w+(?: \w+)?)\.$|^flags\.DEFINE_\w+\(\s*'(\w+)'", source, re.MULTILINE
  )
  for title, name in (match.groups() for match in found):
    parts.append(_group(title) if title else _row(flags.FLAGS[name]))
  return ''.join(parts)


def _group(title):
  return f'\n## {title}\n\n| flag | default | meaning |\n| --- | --- | --- |\n'


def _row(flag):
  default = (flag.default_as_str or '').strip("'")
  # absl puts an enum's values first; a bare < would begin an HTML tag.
  meaning = re.sub(r'^<[^>]*>: ', '', flag.help).replace('<', r'\<')
  if values := getattr(flag.parser, 'enum_values', None):
    meaning += f' One of {", ".join(f"`{value}`" for value in values)}.'
  default = f'`{default}`' if default else 'empty'
  return f'| `--{flag.name}` | {default} | {meaning} |\n'


if __name__ == '__main__':
  flags.FLAGS(sys.argv)
  _PAGE.write_text(page(), encoding='utf-8')
