import numpy as np
import pytest
from PIL import Image

from impala import evaluation, schedule, video
from impala.environments import protocol

_EPISODE = schedule.Episode('doom_basic', 3)


def _spec(shape, actions=3, names=('left', 'right', 'attack')):
  return protocol.Spec(shape, actions, action_names=names)


def _moments(shape, steps=4, actions=3):
  frame = np.full(shape, 100, np.uint8)
  probabilities = np.full(actions, 1 / actions)
  for step in range(steps):
    yield evaluation.Moment(
      _EPISODE, step, frame, step % actions, probabilities, 0.5 * step, step
    )
  yield evaluation.Moment(
    _EPISODE, steps - 1, frame, 0, probabilities, 1.0, 9.0, over=True
  )


@pytest.mark.parametrize('shape', [(72, 96, 3), (84, 84, 4), (10, 10, 1)])
def test_pictures_have_the_frame_and_a_panel(shape):
  (first, *_) = _moments(shape)
  picture = video.draw(first, [0.0], _spec(shape))
  height, width, channels = picture.shape
  assert (height, channels, picture.dtype) == (288, 3, np.uint8)
  assert width % 2 == 0  # H.264 wants it.
  left = round(288 * shape[1] / shape[0])
  assert (picture[:, :left] == 100).all()
  assert len(np.unique(picture[:, left:])) > 5


def test_the_panel_tells_action_value_and_return():
  spec = _spec((72, 96, 3))
  first, *_ = _moments(spec.frame_shape)

  def panel(moment, values=(0.0, 1.0)):
    return video.draw(moment, list(values), spec)[:, 384:]

  base = panel(first)
  for change in ({'action': 2}, {'value': 3.0}, {'episode_return': 7.0}):
    assert (panel(first._replace(**change)) != base).any()
  assert (panel(first, (0.0, 1.0, 5.0)) != base).any()


def test_many_actions_without_names_fit():
  spec = _spec((84, 84, 4), actions=18, names=())
  (first, *_) = _moments(spec.frame_shape, actions=18)
  assert video.draw(first, [-1.0, -2.0], spec).shape[0] == 288


@pytest.mark.parametrize('ending', ['gif', 'mp4'])
def test_a_film_that_opens(tmp_path, ending):
  path = tmp_path / f'film.{ending}'
  spec = _spec((72, 96, 3))
  video.film(_moments(spec.frame_shape), spec, path)
  assert [file.name for file in tmp_path.iterdir()] == [path.name]
  if ending == 'gif':
    with Image.open(path) as film:
      assert film.size == (640, 288)
      assert film.info['loop'] == 0  # For ever.
      assert film.n_frames >= 5
  else:
    import imageio

    with imageio.get_reader(path) as film:
      assert film.get_meta_data()['size'] == (640, 288)
      assert film.count_frames() == 4 + 10


def test_a_film_that_fails_leaves_none(tmp_path):
  def moments():
    yield from _moments((72, 96, 3))
    raise RuntimeError('lost')

  with pytest.raises(RuntimeError, match='lost'):
    video.film(moments(), _spec((72, 96, 3)), tmp_path / 'film.gif')
  assert not (tmp_path / 'film.gif').exists()
