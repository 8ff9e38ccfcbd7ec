"""`python -m impala.report LOGDIR…`: a page of one or several runs.

Learning curves, scores by level beside the paper's, and the paper's Tables 3
and 4 with the runs' rows.
"""

import sys

from absl import app, flags

from impala.environments import protocol
from impala.report import page

FLAGS = flags.FLAGS
flags.DEFINE_string('output', 'runs/report', 'The folder of the page.')


def main(argv):
  """Writes the report of the log directories that are named."""
  if len(argv) < 2:
    sys.exit('impala: name log directories: python -m impala.report LOGDIR…')
  try:
    print(f'Report: {page.write(argv[1:], FLAGS.output)}')
  except protocol.UserError as error:
    sys.exit(f'impala: {error}')


if __name__ == '__main__':
  app.run(main)
