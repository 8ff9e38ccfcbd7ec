"""CSV files that a resumed run continues."""

import collections
import csv
import os
import pathlib


class CsvLog:
  """Appends rows to a CSV file; they are in the file when `write` returns.

  A resumed run goes on where its checkpoint is: rows of frames that were lost
  with a crash, and a last line that was cut short, are dropped.

  Attributes:
    past: The newest rows of earlier processes, as dictionaries of strings.
  """

  def __init__(self, path, fields, frames: int, frames_field: str, past: int):
    """Opens the file, or begins it.

    Args:
      path: Of the file.
      fields: Names of the columns. In rows that were written without them,
        they stay empty.
      frames: The frame count to continue from.
      frames_field: The column that holds it.
      past: How many rows to keep in memory at most.
    """
    path = pathlib.Path(path)
    beside = path.with_suffix('.csv.tmp')
    self.past = collections.deque(maxlen=past)
    with beside.open('w', newline='', encoding='utf-8') as file:
      writer = csv.DictWriter(file, fields, restval='', extrasaction='ignore')
      writer.writeheader()
      for row in whole_rows(path):
        count = row.get(frames_field, '')
        if count.isdecimal() and int(count) <= frames:
          writer.writerow(row)
          self.past.append(row)
    os.replace(beside, path)
    self._file = path.open('a', newline='', encoding='utf-8')
    self._writer = csv.DictWriter(self._file, fields)

  def write(self, rows) -> None:
    """Appends dictionaries, one a row."""
    self._writer.writerows(rows)
    self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


def whole_rows(path):
  """Yields a file's rows but those that are damaged; none of no file.

  No value may have a line end in it: a damaged line costs no other.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return
  with path.open(newline='', encoding='utf-8', errors='replace') as file:
    # Only the last line can be without its end.
    lines = (line for line in file if line.endswith('\n'))
    fields = _cells(next(lines, ''))
    for line in lines:
      cells = _cells(line)
      if cells and len(cells) == len(fields):
        yield dict(zip(fields, cells, strict=True))


def _cells(line):
  try:
    return next(csv.reader([line], strict=True), [])
  except csv.Error:
    return []
