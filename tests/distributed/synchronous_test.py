"""Several learners beside one, as processes."""

import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

_PROGRAM = pathlib.Path(__file__).parent / 'update_together.py'


def _free_port(count):
  """A port with free ones after it."""
  while True:
    with socket.socket() as first:
      first.bind(('localhost', 0))
      port = first.getsockname()[1]
    try:
      for following in range(port, port + count):
        with socket.socket() as other:
          other.bind(('localhost', following))
      return port
    except OSError:
      continue


@pytest.fixture
def learn(tmp_path):
  """Runs learners; returns what each of their devices has in the end."""

  def learn(size, updates, devices=1):
    port = _free_port(size)
    paths = [tmp_path / f'{size}_{devices}_{task}_' for task in range(size)]
    running = [
      subprocess.Popen(
        [
          sys.executable,
          _PROGRAM,
          *map(str, (task, size, port, updates, path, devices)),
        ]
      )
      for task, path in enumerate(paths)
    ]
    try:
      assert [process.wait(300) for process in running] == [0] * size
    finally:
      for process in running:
        process.kill()
    results = []
    for path in paths:
      for device in range(devices):
        with np.load(f'{path}{device}.npz') as arrays:
          results.append({name: arrays[name] for name in arrays.files})
    return results

  return learn


@pytest.fixture
def alone(learn):
  """What a single learner with one device has after ten updates."""
  (alone,) = learn(1, updates=10)
  assert len(alone['updates']) == 10
  return alone


@pytest.mark.parametrize(
  ('size', 'devices'), [(2, 1), (1, 2)], ids=['learners', 'devices']
)
def test_two_with_half_a_batch_each_do_what_one_does_with_the_whole(
  learn, alone, size, devices
):
  first, second = learn(size, 10, devices)
  assert set(alone) == set(first) == set(second)
  for name in alone:
    np.testing.assert_array_equal(first[name], second[name], name)
    np.testing.assert_allclose(
      first[name], alone[name], rtol=1e-4, atol=1e-6, err_msg=name
    )


@pytest.mark.slow
@pytest.mark.parametrize(
  ('size', 'devices'), [(2, 1), (1, 2)], ids=['learners', 'devices']
)
def test_after_a_thousand_updates_they_are_the_same_to_the_bit(
  learn, size, devices
):
  first, second = learn(size, 1000, devices)
  for name, values in first.items():
    np.testing.assert_array_equal(values, second[name], name)
  # They have learned, and not from nothing.
  assert np.ptp(first['updates'][:, 0]) > 1
