import html.parser
import subprocess
import sys

import pytest
from PIL import Image

from impala.environments import protocol
from impala.report import page


class _Page(html.parser.HTMLParser):
  """Collects what a page refers to, and its text."""

  def __init__(self, text):
    super().__init__()
    self.sources, self.words = [], []
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    self.sources += [v for k, v in attributes if k in ('src', 'href')]

  def handle_data(self, data):
    self.words.append(data)


def test_a_page_that_needs_no_other(tmp_path, make_run):
  runs = [
    make_run('a', 'doom_basic', 1, {'doom_basic': [80.0, 82.0]}),
    make_run('b', 'doom_basic', 2),
    make_run('<c>', 'atari_pong', 1, {'atari_pong': [1.0, 2.0]}),
  ]
  path = page.write(runs, tmp_path / 'report')
  parsed = _Page(path.read_text())
  assert len(parsed.sources) == 2
  assert all(s.startswith('data:image/png;base64,') for s in parsed.sources)
  text = ' '.join(parsed.words)
  assert '81.0 ± 1.0' in text and str(runs[2]) in text
  for name in ('learning_curves.png', 'levels_2.png'):
    with Image.open(path.parent / name) as picture:
      assert picture.width > 500


def test_bad_input(tmp_path, make_run):
  empty = tmp_path / 'empty'
  empty.mkdir()
  run = make_run('a', 'doom_basic')
  with pytest.raises(protocol.UserError, match='has neither'):
    page.write([empty], tmp_path / 'report')
  for path in (tmp_path / 'nowhere', run / 'metrics.csv'):
    with pytest.raises(protocol.UserError, match='is no log directory'):
      page.write([path], tmp_path / 'report')
  (run / 'scores.json').write_text('{"levels": {"doom')
  with pytest.raises(protocol.UserError, match='is damaged'):
    page.write([run], tmp_path / 'report')
  assert not (tmp_path / 'report').exists()


def test_a_run_without_episodes(tmp_path, make_run):
  run = make_run('a', 'doom_basic')
  path = run / 'metrics.csv'
  path.write_text(''.join(path.read_text().splitlines(keepends=True)[:2]))
  path = page.write([run], tmp_path / 'report')
  assert 'data:' not in path.read_text()


def test_command_line(tmp_path, make_run):
  command = [sys.executable, '-m', 'impala.report', f'--output={tmp_path}/r']
  run = make_run('a', 'doom_basic')
  done = subprocess.run([*command, str(run)], capture_output=True, text=True)
  assert done.returncode == 0
  assert done.stdout == f'Report: {tmp_path}/r/index.html\n'
  for arguments in ([], [str(tmp_path / 'nowhere')]):
    failed = subprocess.run(
      [*command, *arguments], capture_output=True, text=True
    )
    assert failed.returncode == 1
    assert 'Traceback' not in failed.stderr
    assert failed.stderr.splitlines()[-1].startswith('impala: ')
