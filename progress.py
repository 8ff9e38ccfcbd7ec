"""One line that tells how far a run is."""

import shutil
import sys
import time

_BAR_CELLS = 20


def format_line(
  done: int,
  total: int,
  frames_per_second: float,
  mean_return: float | None,
  seconds_left: float | None,
  unit: str = 'frames',
) -> str:
  """Returns e.g. '[#####...............] 25.0% 30.1k/120.0k frames …'.

  Args:
    done: How many of `total` there are, in units of `unit`.
    total: How many there will be.
    frames_per_second: At present.
    mean_return: Of episodes, where some have ended.
    seconds_left: Until all are done, where it is known.
    unit: In the plural.
  """
  share = min(1.0, done / total)
  bar = ('#' * int(share * _BAR_CELLS)).ljust(_BAR_CELLS, '.')
  returns = '-' if mean_return is None else f'{mean_return:.1f}'
  left = '-' if seconds_left is None else format_seconds(seconds_left)
  return (
    f'[{bar}] {share:6.1%}  {format_count(done)}/{format_count(total)} {unit}'
    f'  {format_count(frames_per_second)} frames/s  return {returns}'
    f'  {left} left'
  )


def format_count(number: float) -> str:
  """Returns a count with three digits or so: '950', '30.1k', '1.00G'."""
  for limit, digits, unit in ((1e9, 2, 'G'), (1e6, 2, 'M'), (1e3, 1, 'k')):
    if number >= limit:
      return f'{number / limit:.{digits}f}{unit}'
  return f'{number:.0f}'


def format_seconds(seconds: float) -> str:
  """Returns '0:42', '1:02:03' or '3d 04h'."""
  minutes, second = divmod(round(seconds), 60)
  hours, minute = divmod(minutes, 60)
  if hours >= 24:
    return f'{hours // 24}d {hours % 24:02d}h'
  return (
    f'{hours}:{minute:02d}:{second:02d}' if hours else f'{minute}:{second:02d}'
  )


class ProgressLine:
  """Rewrites one line on a terminal, appends sparse lines to a file."""

  def __init__(self, stream=None, file_interval: float = 30.0):
    """Writes to `stream`, standard output by default.

    Args:
      stream: A text file.
      file_interval: Seconds between two lines where it is no terminal.
    """
    self._stream = stream or sys.stdout
    self._terminal = self._stream.isatty()
    self._interval = file_interval
    self._next = 0.0

  def show(self, line: str, last: bool = False) -> None:
    """Shows `line`; the last one always, and with a line end."""
    now = time.monotonic()
    if self._terminal:
      # A line that wraps could not be rewritten.
      width = shutil.get_terminal_size().columns - 1
      self._stream.write(f'\r\x1b[K{line[:width]}' + ('\n' if last else ''))
    elif last or now >= self._next:
      self._stream.write(f'{line}\n')
      self._next = now + self._interval
    self._stream.flush()
