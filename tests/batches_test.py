import threading

import numpy as np
import pytest
import tensorflow as tf

from impala import batches, structures

_T, _B = 2, 3


def _trajectory(number):
  """The `number`-th: every entry tells its number and its time."""
  times = tf.range(_T + 1)
  values = tf.cast(10 * number + times, tf.float32)
  return structures.Trajectory(
    actor=tf.constant(number),
    version=tf.constant(100 + number, tf.int64),
    agent_state=(tf.fill([4], float(number)),),
    env_outputs=structures.StepOutput(
      reward=values,
      info=structures.StepOutputInfo(values, times, times > 1),
      done=times > 0,
      observation=structures.Observation(
        tf.fill([_T + 1, 5, 6, 1], tf.constant(number, tf.uint8)),
        tf.strings.as_string(times),
      ),
    ),
    agent_outputs=structures.AgentOutput(
      times, tf.stack([values, -values], -1), values
    ),
  )


_SPECS = tf.nest.map_structure(tf.type_spec_from_value, _trajectory(0))


def _queue(count, capacity=20):
  flat = tf.nest.flatten(_SPECS)
  queue = tf.queue.FIFOQueue(
    capacity, [s.dtype for s in flat], [s.shape for s in flat]
  )
  for number in range(count):
    queue.enqueue(tf.nest.flatten(_trajectory(number)))
  return queue


def _stream(queue, permits=None):
  take = batches.dequeuer(queue, _SPECS, _B)
  stream = batches.BatchStream(take, _SPECS, _B, '/cpu:0', permits)
  stream.start()
  return stream


def _is_waiting(function):
  """Calls on a thread; returns it, and whether the call is still waiting."""
  thread = threading.Thread(target=function, daemon=True)
  thread.start()
  thread.join(0.2)
  return thread, thread.is_alive()


def test_batches_are_time_major_and_in_order():
  stream = _stream(_queue(2 * _B))
  for first in (0, _B):
    batch = stream.get()
    numbers = np.arange(first, first + _B)
    np.testing.assert_array_equal(batch.actor, numbers)
    np.testing.assert_array_equal(batch.version, 100 + numbers)
    np.testing.assert_array_equal(
      batch.agent_state[0], np.repeat(numbers[:, None], 4, 1)
    )
    values = 10 * numbers + np.arange(_T + 1)[:, None]  # [T + 1, B]
    np.testing.assert_array_equal(batch.env_outputs.reward, values)
    np.testing.assert_array_equal(
      batch.agent_outputs.policy_logits, np.stack([values, -values], -1)
    )
    frame = batch.env_outputs.observation.frame.numpy()
    assert frame.shape == (_T + 1, _B, 5, 6, 1)
    np.testing.assert_array_equal(frame[1, :, 0, 0, 0], numbers)
    instruction = batch.env_outputs.observation.instruction.numpy()
    assert instruction.tolist() == [[b'0'] * _B, [b'1'] * _B, [b'2'] * _B]


def test_specs_are_those_of_the_batches():
  batch = _stream(_queue(_B)).get()
  specs = batches.batch_specs(_SPECS, _B)
  tf.nest.assert_same_structure(batch, specs)
  for tensor, spec in zip(
    tf.nest.flatten(batch), tf.nest.flatten(specs), strict=True
  ):
    assert spec.is_compatible_with(tensor), spec


def test_the_next_batch_is_staged_but_no_more():
  queue = _queue(20)
  stream = _stream(queue)
  stream.get()
  _wait_for(lambda: queue.size() == 20 - 3 * _B)  # One staged, one in hand.
  queue.close()
  for _ in range(5):
    stream.get()
  assert stream.get() is None and stream.error is None


def _wait_for(condition):
  event = threading.Event()
  for _ in range(100):
    if condition():
      return
    event.wait(0.1)
  raise AssertionError('It did not come true.')


@pytest.mark.parametrize('count', [0, 1, _B, 3 * _B + 2])
def test_closed_queue_ends_the_stream(count):
  queue = _queue(count)
  stream = _stream(queue)
  if count > _B:  # The staging area is full, the thread waits for room.
    _wait_for(lambda: queue.size() == count - 2 * _B)
  queue.close(cancel_pending_enqueues=True)
  for _ in range(count // _B):  # What is whole is not lost.
    assert stream.get() is not None
  assert stream.get() is None
  assert stream.error is None


def test_get_that_waits_hears_of_the_end():
  queue, got = _queue(0), []
  stream = _stream(queue)
  thread, waiting = _is_waiting(lambda: got.append(stream.get()))
  assert waiting
  queue.close()
  thread.join(10)
  assert got == [None]


def test_failure_ends_the_stream():
  # The frames are not of the shape that was told.
  queue = tf.queue.FIFOQueue(9, [s.dtype for s in tf.nest.flatten(_SPECS)])
  for number in range(_B):
    trajectory = _trajectory(number)
    queue.enqueue(
      tf.nest.flatten(trajectory._replace(agent_state=(tf.zeros([number]),)))
    )
  stream = _stream(queue)
  assert stream.get() is None
  assert isinstance(stream.error, tf.errors.InvalidArgumentError)


def test_permits_come_with_the_request():
  queue, permits = _queue(2 * _B), tf.queue.FIFOQueue(99, tf.int32, [()])
  stream = _stream(queue, permits)
  assert permits.size() == 0
  stream.get()
  assert permits.size() == _B
  stream.get()
  assert permits.size() == 2 * _B
  for closed in (queue, permits):
    closed.close(cancel_pending_enqueues=True)
  assert stream.get() is None
