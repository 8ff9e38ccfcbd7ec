"""The episodes that tests of a run have played, so that none is lost."""

import csv
import pathlib

from impala import csv_log, evaluation

FIELDS = ('test', 'checkpoint', 'level', 'episode', 'return', 'length')


class TestLog:
  """Appends to `test_episodes.csv`, which all tests of a run share.

  Attributes:
    results: By episode, of this test and of those like it before.
  """

  __test__ = False  # It is no test of pytest's.

  def __init__(self, logdir, test: str, checkpoint: str):
    """Opens the file, or begins it.

    Args:
      logdir: Of the run.
      test: Tells tests apart whose episodes differ.
      checkpoint: The name of what is tested.
    """
    path = pathlib.Path(logdir) / 'test_episodes.csv'
    self._test, self._checkpoint = test, checkpoint
    self.results = {}
    for row in csv_log.whole_rows(path):
      if row.get('test') == test and (result := _result(row)):
        self.results[result.episode] = result
    self._file = path.open('a+', newline='', encoding='utf-8')
    self._writer = csv.DictWriter(self._file, FIELDS)
    if not self._file.tell():
      self._writer.writeheader()
    elif not path.read_bytes().endswith(b'\n'):
      self._file.write('\n')  # After a line that was cut short.

  def add(self, result: evaluation.Result) -> None:
    """Takes note of an episode; it is in the file when this returns."""
    self.results[result.episode] = result
    self._writer.writerow(
      {
        'test': self._test,
        'checkpoint': self._checkpoint,
        'level': result.episode.level,
        'episode': result.episode.number,
        'return': result.episode_return,
        'length': result.length,
      }
    )
    self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


def _result(row):
  try:
    return evaluation.Result(
      evaluation.Episode(row['level'], int(row['episode'])),
      float(row['return']),
      int(row['length']),
    )
  except (KeyError, ValueError):
    return None  # A damaged line: the episode is played again.
