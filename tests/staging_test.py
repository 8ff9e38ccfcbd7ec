import threading

import numpy as np
import tensorflow as tf

from impala import staging

_SPECS = {
  'a': tf.TensorSpec([2], tf.float32),
  'b': (tf.TensorSpec([], 'string'),),
}


def _element(number):
  return {'a': tf.fill([2], float(number)), 'b': (tf.constant(str(number)),)}


def test_first_in_first_out():
  area = staging.StagingArea(_SPECS, '/cpu:0', capacity=3)
  for number in range(3):
    area.put(_element(number))
  for number in range(3):
    element = area.get()
    np.testing.assert_array_equal(element['a'], [number, number])
    assert element['b'][0].numpy() == str(number).encode()
    assert 'CPU:0' in element['a'].device


def test_arrays_are_put_as_tensors():
  area = staging.StagingArea(_SPECS, '/cpu:0')
  area.put({'a': np.ones(2, np.float32), 'b': (np.array(b'x', object),)})
  element = area.get()
  np.testing.assert_array_equal(element['a'], [1, 1])
  assert element['b'][0].numpy() == b'x'


def test_areas_are_apart():
  areas = [staging.StagingArea(_SPECS, '/cpu:0') for _ in range(2)]
  for number, area in enumerate(areas):
    area.put(_element(number))
  assert [int(area.get()['a'][0]) for area in reversed(areas)] == [1, 0]


def test_put_waits_for_room():
  area = staging.StagingArea(_SPECS, '/cpu:0', capacity=1)
  area.put(_element(0))
  done = threading.Event()

  def put():
    area.put(_element(1))
    done.set()

  thread = threading.Thread(target=put, daemon=True)
  thread.start()
  assert not done.wait(0.2)
  assert int(area.get()['a'][0]) == 0
  assert done.wait(10)
  thread.join()
  assert int(area.get()['a'][0]) == 1


def test_get_waits_for_an_element():
  area = staging.StagingArea(_SPECS, '/cpu:0')
  got, done = [], threading.Event()

  def get():
    got.append(int(area.get()['a'][0]))
    done.set()

  thread = threading.Thread(target=get, daemon=True)
  thread.start()
  assert not done.wait(0.2)
  area.put(_element(7))
  assert done.wait(10) and got == [7]
  thread.join()
