"""Films of the agent at play, with what it thinks drawn beside what it sees."""

import collections
import contextlib
import os
import pathlib
from collections.abc import Iterable

import numpy as np

from impala import disk, evaluation
from impala.environments import protocol

_FRAMES_PER_SECOND = 15  # Sixty a second, at four a step.
_FRAMES_AT_THE_END = 10  # Of an episode, to read its return.
_PICTURE_HEIGHT = 288
_PANEL_WIDTH = 256
_MARGIN = 10
_HISTORY = 120  # Steps of the value's curve.
_INK, _PAPER = (230, 230, 230), (24, 26, 30)
_BAR, _CHOSEN, _CURVE = (90, 100, 115), (240, 160, 60), (90, 180, 240)


def film(
  moments: Iterable[evaluation.Moment], spec: protocol.Spec, path
) -> None:
  """Writes episodes as a film.

  Args:
    moments: Of one episode after another.
    spec: The environment's; its frames are images.
    path: Of the file; its ending, .mp4 or .gif, decides the format.

  Raises:
    UserError: A package is missing, or the disk is full or refuses.
  """
  imageio = require()
  path = pathlib.Path(path)
  beside = path.with_name(f'{path.stem}.{os.getpid()}{path.suffix}')
  options = (
    {'duration': 1000 / _FRAMES_PER_SECOND, 'loop': 0}
    if path.suffix == '.gif'
    else {'fps': _FRAMES_PER_SECOND, 'macro_block_size': 2}
  )
  values = collections.deque(maxlen=_HISTORY)
  try:
    with disk.writing(path.parent):
      writer = imageio.get_writer(beside, **options)
    with contextlib.closing(writer):
      for moment in moments:
        if moment.step == 0:
          values.clear()
        values.append(moment.value)
        picture = draw(moment, list(values), spec)
        if path.suffix == '.gif':
          picture = _with_few_colours(picture)
        with disk.writing(path.parent):
          for _ in range(_FRAMES_AT_THE_END if moment.over else 1):
            writer.append_data(picture)
    with disk.writing(path.parent):
      beside.replace(path)
  finally:
    beside.unlink(missing_ok=True)  # Where something failed.


def require():
  """Returns the library that films need.

  Raises:
    UserError: It is not installed.
  """
  try:
    import imageio
    import imageio_ffmpeg  # noqa: F401
  except ImportError as error:
    raise protocol.UserError(
      f'--video needs {error.name}, which is not installed: pip install '
      "'imageio[ffmpeg]'"
    ) from error
  return imageio


def _with_few_colours(picture):
  """A GIF has 256 at most, and is smaller with fewer and without dithering."""
  from PIL import Image

  few = Image.fromarray(picture).quantize(64, dither=Image.Dither.NONE)
  return np.asarray(few.convert('RGB'))


def draw(
  moment: evaluation.Moment, values: list[float], spec: protocol.Spec
) -> np.ndarray:
  """Returns one picture of a film, uint8 `[height, width, 3]`.

  Args:
    moment: What the picture shows.
    values: The last ones of the episode, this moment's included.
    spec: The environment's.
  """
  from PIL import Image, ImageDraw, ImageFont

  frame = moment.frame
  if frame.shape[-1] != 3:  # A stack of grey frames, or a single one.
    frame = np.repeat(frame[..., -1:], 3, axis=-1)
  width = round(_PICTURE_HEIGHT * frame.shape[1] / frame.shape[0])
  picture = Image.new(
    'RGB', (-(-(width + _PANEL_WIDTH) // 2) * 2, _PICTURE_HEIGHT), _PAPER
  )
  picture.paste(
    Image.fromarray(frame).resize((width, _PICTURE_HEIGHT), Image.NEAREST)
  )
  canvas = ImageDraw.Draw(picture)
  font = ImageFont.load_default(13)
  left, right = width + _MARGIN, picture.width - _MARGIN
  lines = [
    moment.episode.level[:34],
    f'episode {moment.episode.number}, step {moment.step}',
    f'return {moment.episode_return:.1f}',
    f'value {moment.value:.2f}',
  ]
  canvas.multiline_text((left, _MARGIN), '\n'.join(lines), _INK, font)
  _draw_curve(canvas, values, (left, 84, right, 124))
  _draw_bars(canvas, moment, spec, font, (left, 134, right, 280))
  return np.asarray(picture)


def _draw_curve(canvas, values, box):
  """Draws the values so far, from the lowest to the highest of them."""
  left, top, right, bottom = box
  low, high = min(*values, 0.0), max(*values, 1e-6)
  canvas.line((left, bottom, right, bottom), _BAR)
  points = [
    (
      left + (right - left) * index / _HISTORY,
      bottom - (bottom - top) * (value - low) / (high - low),
    )
    for index, value in enumerate(values)
  ]
  if len(points) > 1:
    canvas.line(points, _CURVE, width=2)


def _draw_bars(canvas, moment, spec, font, box):
  """Draws the policy: a bar an action, as long as it is probable."""
  left, top, right, bottom = box
  height = min(18, (bottom - top) // len(moment.probabilities))
  for action, probability in enumerate(moment.probabilities):
    y = top + action * height
    colour = _CHOSEN if action == moment.action else _BAR
    end = left + (right - left) * float(probability)
    canvas.rectangle((left, y, end, y + max(height - 3, 1)), colour)
    if height >= 12:
      names = spec.action_names or [
        f'action {index}' for index in range(spec.num_actions)
      ]
      # The chosen action's bar is bright where it is long.
      ink = _PAPER if action == moment.action and probability > 0.3 else _INK
      canvas.text((left + 3, y - 1), names[action], ink, font)
