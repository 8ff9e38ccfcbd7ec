"""The episodes that tests of a run have played, so that none is lost."""

import contextlib
import csv
import fcntl
import pathlib

from impala import csv_log, schedule
from impala.environments import protocol

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

    Raises:
      UserError: Another process has it open.
      OSError: The disk refuses.
    """
    path = pathlib.Path(logdir) / 'test_episodes.csv'
    self._test, self._checkpoint = test, checkpoint
    self._file = path.open('a+', newline='', encoding='utf-8')
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      self._file.close()
      raise protocol.UserError(
        f'Another test of {logdir} is under way: wait for its end, or stop it.'
      ) from None
    self.results = {
      result.episode: result
      for row in csv_log.whole_rows(path)
      if row.get('test') == test and (result := _result(row))
    }
    self._writer = csv.DictWriter(self._file, FIELDS)
    self._repair(path)

  def _repair(self, path):
    """Makes the file's first line the header, and ends its last."""
    data = path.read_bytes()
    header = ','.join(FIELDS).encode()
    if data.partition(b'\n')[0].rstrip() != header:
      if data:
        path.with_suffix('.csv.damaged').write_bytes(data)
      self._file.truncate(0)
      self._writer.writeheader()
    elif not data.endswith(b'\n'):
      self._file.write('\r\n')  # After a line that was cut short.

  def add(self, result: schedule.Result) -> None:
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
    with contextlib.suppress(OSError):  # `add` has told of it.
      self._file.close()


def _result(row):
  try:
    return schedule.Result(
      schedule.Episode(row['level'], int(row['episode'])),
      float(row['return']),
      int(row['length']),
    )
  except (KeyError, ValueError):
    return None  # A damaged line: the episode is played again.
