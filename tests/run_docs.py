"""Runs every command of README.md, CONTRIBUTING.md and docs/, as it stands.

Each ```sh block is run by bash, in the order of the pages, in a folder of links
to the clone whose `runs` is its own, unless above it `<!-- not run: why -->`
stands. Trainings and tests are short: $FLAGS follows the flags of each.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

_ROOT = pathlib.Path(__file__).parent.parent
_PAGES = (
  'README.md',
  'CONTRIBUTING.md',
  *sorted((_ROOT / 'docs').glob('*.md')),
)
_SHORT = '--total_environment_frames=2000 --test_num_episodes=4'
_LONGEST_SECONDS = 1200  # Of a block, some of which install.
_BLOCK = re.compile(
  r'^(?: *<!-- not run: (.+?) -->\n\n?)?( *)```sh\n(.*?)\n\2```$', re.M | re.S
)
_EXPERIMENT = re.compile(r'^.* experiment\.py .*$', re.M)


def run(page: pathlib.Path, folder: str) -> None:
  """Runs the blocks of a page; raises `CalledProcessError`."""
  for why_not, _, block in _BLOCK.findall(page.read_text(encoding='utf-8')):
    print(
      f'{page.name}: {why_not and f"not run, {why_not}:"}\n{block}', flush=True
    )
    if not why_not:
      block = block.replace('\\\n', ' ')
      subprocess.run(
        [
          'bash',
          '-euo',
          'pipefail',
          '-c',
          _EXPERIMENT.sub(r'\g<0> $FLAGS', block),
        ],
        cwd=folder,
        env={**os.environ, 'FLAGS': _SHORT},
        check=True,
        timeout=_LONGEST_SECONDS,
      )


def main() -> None:
  """Runs all pages; exits with a message where a command fails."""
  with tempfile.TemporaryDirectory() as folder:
    for path in _ROOT.iterdir():
      if path.name != 'runs':
        pathlib.Path(folder, path.name).symlink_to(path)
    for page in _PAGES:
      try:
        run(_ROOT / page, folder)
      except (
        subprocess.CalledProcessError,
        subprocess.TimeoutExpired,
      ) as error:
        sys.exit(f'{page}: {error}')


if __name__ == '__main__':
  main()
