"""The contract of dynamic batching, from Python."""

import collections
import faulthandler
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import cancellation

from impala import dynamic_batching, ops_library

LONG_MS = 60_000  # A timeout that no test waits for.
GUARD_SECONDS = 40

Point = collections.namedtuple('Point', ['x', 'y'])


@pytest.fixture(autouse=True)
def _guard():
  """Nothing may hang; should it, the stacks say where."""
  faulthandler.dump_traceback_later(3 * GUARD_SECONDS, exit=True)
  yield
  faulthandler.cancel_dump_traceback_later()


class Call(threading.Thread):
  """A call on a thread of its own."""

  def __init__(self, function, *args, **kwargs):
    super().__init__(daemon=True)
    self._call = lambda: function(*args, **kwargs)
    self._outcome = None
    self.start()

  def run(self):
    try:
      self._outcome = self._call()
    except BaseException as error:
      self._outcome = error

  def outcome(self):
    """The result, or the exception."""
    self.join(GUARD_SECONDS)
    if self.is_alive():
      faulthandler.dump_traceback(all_threads=True)
      pytest.fail('A call hangs.')
    return self._outcome

  def result(self):
    outcome = self.outcome()
    if isinstance(outcome, BaseException):
      raise outcome
    return outcome

  def error(self):
    outcome = self.outcome()
    assert isinstance(outcome, BaseException), outcome
    return outcome


class Gate:
  """Makes a batched function's batches wait inside, in the graph."""

  def __init__(self):
    self._entered = tf.queue.FIFOQueue(1000, [tf.bool], [[]])
    self._open = tf.queue.FIFOQueue(1000, [tf.bool], [[]])

  def passes(self, x):
    with tf.control_dependencies([self._entered.enqueue(True)]):
      passed = self._open.dequeue()
    with tf.control_dependencies([passed]):
      return tf.identity(x)

  def await_batch(self):
    Call(self._entered.dequeue).result()

  def open(self, batches=1):
    for _ in range(batches):
      self._open.enqueue(True)


def _settle():
  """Gives calls on other threads the time to arrive."""
  time.sleep(0.4)


def _rows(*values, dtype=tf.float32):
  return tf.constant(values, dtype)


def _options(**kwargs):
  return dynamic_batching.batch_fn_with_options(
    **{'timeout_ms': LONG_MS, **kwargs}
  )


# What is called is what runs.


def test_one_call():
  @dynamic_batching.batch_fn
  def double(x):
    """Doubles."""
    return 2 * x

  np.testing.assert_array_equal(double(_rows(1, 2)), [2, 4])
  np.testing.assert_array_equal(double(np.float32([3])), [6])
  assert double.__name__ == 'double'
  assert double.__doc__ == 'Doubles.'


def test_nests():
  @dynamic_batching.batch_fn
  def f(point, extras, empty, *, scale):
    assert empty == ()
    return {
      'point': Point(point.x * scale, [point.y, ()]),
      'nothing': None,
      'extra': (extras['b'], extras['a']),
    }

  result = f(
    Point(_rows(1), _rows(2, dtype=tf.int64)),
    {'a': tf.constant(['s']), 'b': tf.constant([[True, False]])},
    (),
    scale=_rows(10),
  )
  assert isinstance(result['point'], Point)
  np.testing.assert_array_equal(result['point'].x, [10])
  np.testing.assert_array_equal(result['point'].y[0], [2])
  assert result['point'].y[1] == ()
  assert result['nothing'] is None
  np.testing.assert_array_equal(result['extra'][0], [[True, False]])
  np.testing.assert_array_equal(result['extra'][1], [b's'])


def test_keywords_are_positions():
  @dynamic_batching.batch_fn
  def subtract(x, y):
    return x - y

  np.testing.assert_array_equal(subtract(_rows(3), _rows(1)), [2])
  np.testing.assert_array_equal(subtract(y=_rows(1), x=_rows(3)), [2])
  with pytest.raises(TypeError, match='missing'):
    subtract(x=_rows(1))


@pytest.mark.parametrize(
  'dtype', [tf.uint8, tf.bool, tf.int32, tf.int64, tf.float16, tf.bfloat16]
)
def test_dtypes(dtype):
  identity = _options(minimum_batch_size=3)(tf.identity)
  inputs = [
    tf.cast([[0, 1, 1]], dtype),
    tf.cast([[1, 0, 1], [1, 1, 1]], dtype),
  ]
  calls = [Call(identity, x) for x in inputs]
  for x, call in zip(inputs, calls, strict=True):
    assert call.result().dtype == dtype
    np.testing.assert_array_equal(call.result(), x)
  assert identity.statistics().batches == 1


def test_strings():
  join = _options(minimum_batch_size=3)(
    lambda x: tf.strings.join([x, tf.repeat('!' * 50, tf.size(x))])
  )
  calls = [Call(join, tf.constant([str(i) * 100])) for i in range(3)]
  for i, call in enumerate(calls):
    assert call.result().numpy() == [(str(i) * 100 + '!' * 50).encode()]


def test_no_rows():
  f = dynamic_batching.batch_fn(lambda x: x + 1)
  assert Call(f, tf.zeros([0, 3])).result().shape == [0, 3]
  g = _options(minimum_batch_size=2)(lambda x: x + 1)
  g(tf.zeros([2, 3]))  # Who traces it comes first.
  calls = [Call(g, tf.zeros([0, 3]))]
  _settle()
  calls.append(Call(g, tf.zeros([2, 3])))
  assert [call.result().shape[0] for call in calls] == [0, 2]


def test_methods():
  class Adder:
    def __init__(self, amount):
      self.amount = amount

    @dynamic_batching.batch_fn
    def add(self, x):
      return x + self.amount

  one, two = Adder(1), Adder(2)
  np.testing.assert_array_equal(one.add(_rows(1)), [2])
  np.testing.assert_array_equal(two.add(_rows(1, 1)), [3, 3])
  assert one.add is one.add
  assert one.add.statistics().rows == 1
  assert two.add.statistics().rows == 2


def test_autograph():
  def f(x):
    if tf.reduce_sum(x) > 0:
      x = x + 1
    for _ in tf.range(2):
      x = 2 * x
    return x

  eager, inside = map(dynamic_batching.batch_fn, (f, f))
  np.testing.assert_array_equal(eager(_rows(1)), [8])
  np.testing.assert_array_equal(tf.function(lambda x: inside(x))(_rows(1)), [8])


def test_default_argument_of_a_function():
  f = dynamic_batching.batch_fn(lambda x: x + 1)

  @tf.function
  def call(x, g=f):
    return g(x)

  np.testing.assert_array_equal(call(_rows(1)), [2])
  assert f.statistics().batches == 1


def test_rows_that_share_memory_outlive_their_batch():
  # Rows of 64 bytes stay where they were computed, shorter ones are copied.
  for width in (16, 3):
    f = _options(minimum_batch_size=2)(lambda x: x * 2)
    rows = [tf.fill([1, width], float(value)) for value in (3, 4)]
    calls = [Call(f, row) for row in rows]
    results = [call.result() for call in calls]
    del f, calls
    gc.collect()
    for row, result in zip(rows, results, strict=True):
      np.testing.assert_array_equal(result, 2 * row)
      np.testing.assert_array_equal(tf.nn.relu(result) + 1, 2 * row + 1)


def test_no_gradient():
  v = tf.Variable(2.0)
  f = dynamic_batching.batch_fn(lambda x: x * v)
  x = _rows(3)

  def gradients():
    with tf.GradientTape() as tape:
      tape.watch(x)
      y = f(x) + x
    return tape.gradient(y, [x, v])

  for dx, dv in (gradients(), tf.function(gradients)()):
    np.testing.assert_array_equal(dx, [1])
    assert dv is None


def test_statistics():
  f = _options(minimum_batch_size=3)(lambda x: x)
  assert f.statistics() == (0, 0, 0.0)
  assert f.statistics().mean_batch_size == 0
  calls = [Call(f, tf.zeros([n])) for n in (1, 2)]
  for call in calls:
    call.result()
  statistics = f.statistics()
  assert statistics[:2] == (1, 3)
  assert statistics.mean_batch_size == 3
  assert 0 < statistics.seconds_waited < 3 * GUARD_SECONDS


# Which calls run together.


def test_minimum_and_order():
  f = _options(minimum_batch_size=4)(
    lambda x: (x, tf.range(tf.size(x)), tf.fill(tf.shape(x), tf.size(x)))
  )
  calls = []
  for i in range(4):
    assert not calls or calls[-1].is_alive()
    calls.append(Call(f, _rows(i)))
    time.sleep(0.1)
  f_warm = [call.result() for call in calls]
  assert [int(x[0]) for x, _, _ in f_warm] == [0, 1, 2, 3]
  assert all(int(size[0]) == 4 for _, _, size in f_warm)
  assert sorted(int(index[0]) for _, index, _ in f_warm) == [0, 1, 2, 3]


def test_maximum():
  gate = Gate()
  f = _options(maximum_batch_size=3)(
    lambda x: tf.fill(tf.shape(gate.passes(x)), tf.size(x))
  )
  first = Call(f, tf.zeros([1]))
  gate.await_batch()
  calls = [Call(f, tf.zeros([1])) for _ in range(7)]
  _settle()
  gate.open(4)
  assert first.result().numpy() == [1]
  sizes = sorted(int(call.result()[0]) for call in calls)
  assert sizes == [1, 3, 3, 3, 3, 3, 3]


def test_timeout():
  f = _options(minimum_batch_size=8, timeout_ms=300)(
    lambda x: tf.fill(tf.shape(x), tf.size(x))
  )
  f_calls = [Call(f, tf.zeros([1]))]  # Traces.
  f_calls[0].result()
  start = time.monotonic()
  calls = [Call(f, tf.zeros([1])) for _ in range(2)]
  assert [int(call.result()[0]) for call in calls] == [2, 2]
  assert time.monotonic() - start >= 0.3


def test_timeout_of_zero():
  f = _options(minimum_batch_size=8, timeout_ms=0)(lambda x: x)
  assert Call(f, _rows(1)).result().numpy() == [1]


def test_huge_timeout():
  f = _options(minimum_batch_size=2, timeout_ms=2**62)(lambda x: x)
  call = Call(f, _rows(1))
  _settle()
  assert call.is_alive()
  f(_rows(2))
  assert call.result().numpy() == [1]


def test_calls_of_many_rows():
  f = _options(minimum_batch_size=6)(
    lambda x: tf.stack([x, tf.fill(tf.shape(x), tf.cast(tf.size(x), x.dtype))])[
      0
    ]
  )
  calls = [Call(f, tf.range(n, dtype=tf.float32) + 10 * n) for n in (1, 2, 3)]
  for n, call in zip((1, 2, 3), calls, strict=True):
    np.testing.assert_array_equal(call.result(), np.arange(n) + 10 * n)
  assert f.statistics()[:2] == (1, 6)


def test_hundreds_of_eager_callers():
  f = dynamic_batching.batch_fn(lambda x, y: (x + y, x - y))
  f(_rows(0), _rows(0))

  def caller(index):
    for i in range(10):
      x, y = _rows(*[index] * (1 + i % 3)), _rows(*[i] * (1 + i % 3))
      total, difference = f(x, y)
      np.testing.assert_array_equal(total, x + y)
      np.testing.assert_array_equal(difference, x - y)

  calls = [Call(caller, index) for index in range(300)]
  for call in calls:
    call.result()
  statistics = f.statistics()
  assert statistics.rows == 1 + 300 * (4 * 1 + 3 * 2 + 3 * 3)
  assert statistics.batches < 3001


def test_loops_inside_a_shared_function():
  f = dynamic_batching.batch_fn(lambda x: x + 1)

  @tf.function
  def loop(start):
    return tf.while_loop(
      lambda i, _: i < 50, lambda i, x: (i + 1, f(x)), (0, start)
    )[1]

  calls = [Call(loop, _rows(1000 * i)) for i in range(64)]
  for i, call in enumerate(calls):
    np.testing.assert_array_equal(call.result(), [1000 * i + 50])
  assert f.statistics().rows == 64 * 50
  assert f.statistics().mean_batch_size > 1.5


def test_eager_callers_and_functions_share():
  f = _options(minimum_batch_size=3)(lambda x: x + 1)
  callers = [f, tf.function(lambda x: f(x)), tf.function(lambda x: f(x) + 0)]
  calls = [Call(g, _rows(i)) for i, g in enumerate(callers)]
  assert [call.result().numpy() for call in calls] == [1, 2, 3]
  assert f.statistics()[:2] == (1, 3)


def test_calls_in_one_function_share():
  f = _options(minimum_batch_size=3)(lambda x: x + 1)

  @tf.function
  def g(x):
    return f(x), f(2 * x), f(3 * x)

  results = Call(g, _rows(1)).result()
  assert [r.numpy() for r in results] == [2, 3, 4]
  assert f.statistics()[:2] == (1, 3)


def test_unused_results_still_run():
  runs = tf.Variable(0)
  f = dynamic_batching.batch_fn(lambda x: (runs.assign_add(1), x)[1])

  @tf.function
  def g(x):
    f(x)
    return x

  g(_rows(1))
  assert f.statistics().rows == 1
  assert runs.numpy() == 1


def test_variables_are_read_anew():
  v = tf.Variable([[1.0]])
  f = dynamic_batching.batch_fn(lambda x: tf.matmul(x, v))
  g = tf.function(lambda x: f(x))
  x = tf.ones([1, 1])
  for value in (1.0, 2.0, 3.0):
    v.assign([[value]])
    assert f(x).numpy() == g(x).numpy() == value

  @tf.function
  def assign_and_call(value):
    before = f(x)
    v.assign([[value]])
    return before, f(x)

  before, after = assign_and_call(9.0)
  assert (before.numpy(), after.numpy()) == (3, 9)


def test_variables_on_another_device():
  code = """
    import tensorflow as tf
    from impala import dynamic_batching
    cpu, = tf.config.list_physical_devices('CPU')
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    with tf.device('CPU:1'):
      v = tf.Variable([2.0])

    @dynamic_batching.batch_fn
    def f(x):
      with tf.device('CPU:1'):
        return x * v

    assert f(tf.ones([1])).numpy() == 2
    assert tf.function(lambda x: f(x))(tf.ones([1])).numpy() == 2
  """
  _run_script(code)


def test_static_shapes():
  f = dynamic_batching.batch_fn(
    lambda x: (
      {'a': tf.matmul(x, tf.ones([3, 5])), 'b': tf.shape(x)[:1] + x[:, 0, None]}
      if False
      else {'a': tf.matmul(x, tf.ones([3, 5])), 'b': x[:, 0]}
    )
  )
  shapes = []

  @tf.function(
    input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec([2, 3])]
  )
  def g(x, y):
    shapes.append([f(z)[key].shape.as_list() for z in (x, y) for key in 'ab'])

  g(tf.ones([4, 3]), tf.ones([2, 3]))
  assert shapes == [[[None, 5], [None], [2, 5], [2]]]


# What goes wrong reaches every caller, and nobody else.


def _assert_all_fail(calls, error, match):
  for call in calls:
    with pytest.raises(error, match=match):
      call.result()


@pytest.mark.parametrize('inside', [False, True])
@pytest.mark.parametrize(
  'function',
  [
    lambda x: x[:-1],
    lambda x: tf.concat([x, x], 0),
    lambda x: (x, tf.reduce_sum(x)),
    lambda x: tf.zeros([7]),
  ],
)
def test_wrong_result_size(function, inside):
  f = _options(minimum_batch_size=3)(function)
  g = tf.function(lambda x: f(x)) if inside else f
  calls = [Call(g, _rows(i)) for i in range(3)]
  _assert_all_fail(calls, tf.errors.InvalidArgumentError, 'batch size')


@pytest.mark.parametrize('inside', [False, True])
def test_error_in_the_function(inside):
  def function(x):
    tf.debugging.assert_non_negative(x, message='negative row')
    return x

  f = _options(minimum_batch_size=3)(function)
  g = tf.function(lambda x: f(x)) if inside else f
  for _ in range(3):  # One failure leads to no other.
    calls = [Call(g, _rows(x)) for x in (-1, 0, 1)]
    _assert_all_fail(calls, tf.errors.InvalidArgumentError, 'negative row')
    calls = [Call(g, _rows(x)) for x in (0, 1, 2)]
    assert [call.result().numpy() for call in calls] == [0, 1, 2]


@pytest.mark.parametrize(
  ('raised', 'error'),
  [
    (ValueError, tf.errors.InvalidArgumentError),
    (RuntimeError, tf.errors.UnknownError),
    (StopIteration, tf.errors.OutOfRangeError),
  ],
)
def test_python_error_in_the_function(raised, error):
  def python(x):
    if x.numpy().min() < 0:
      raise raised('from Python')
    return x

  f = _options(minimum_batch_size=2)(
    lambda x: tf.ensure_shape(tf.py_function(python, [x], tf.float32), [None])
  )
  for _ in range(2):
    calls = [Call(f, _rows(x)) for x in (-1, 0)]
    _assert_all_fail(calls, error, 'from Python')
    calls = [Call(f, _rows(x)) for x in (0, 1)]
    assert [call.result().numpy() for call in calls] == [0, 1]


def test_error_while_tracing():
  broken = True

  def function(x):
    if broken:
      raise ValueError('while tracing')
    return x

  f = _options(minimum_batch_size=4)(function)
  callers = [f, f, tf.function(lambda x: f(x)), f]
  for _ in range(2):
    calls = [Call(g, _rows(1)) for g in callers]
    _assert_all_fail(calls, ValueError, 'while tracing')
  broken = False
  calls = [Call(f, _rows(i)) for i in range(4)]
  assert [call.result().numpy() for call in calls] == [0, 1, 2, 3]


def test_calling_itself():
  @dynamic_batching.batch_fn
  def f(x):
    return f(x)

  with pytest.raises(RuntimeError, match='calls itself'):
    Call(f, _rows(1)).result()


def test_no_inputs_or_outputs():
  with pytest.raises(ValueError, match='at least one input'):
    dynamic_batching.batch_fn(lambda: 1)()
  for nothing in (None, (), {'a': None}):
    with pytest.raises(ValueError, match='at least one output'):
      dynamic_batching.batch_fn(lambda _, nothing=nothing: nothing)(_rows(1))


@pytest.mark.parametrize('inside', [False, True])
def test_leading_dimensions_differ(inside):
  f = dynamic_batching.batch_fn(lambda x, y: (x, y))
  g = tf.function(f.__call__) if inside else f
  with pytest.raises(tf.errors.InvalidArgumentError, match='leading batch'):
    g(tf.zeros([2]), tf.zeros([3]))
  g(tf.zeros([2]), tf.zeros([2]))


@pytest.mark.parametrize('traced', [False, True])
def test_scalars(traced):
  f = dynamic_batching.batch_fn(lambda x: x)
  if traced:
    f(_rows(1))
  with pytest.raises(tf.errors.InvalidArgumentError):
    f(1.0)
  unknown_rank = tf.function(
    lambda x: f(x), input_signature=[tf.TensorSpec(None, tf.float32)]
  )
  with pytest.raises(tf.errors.InvalidArgumentError):
    unknown_rank(1.0)
  np.testing.assert_array_equal(unknown_rank([1.0]), [1])


def test_first_signature_decides():
  f = dynamic_batching.batch_fn(lambda x: x)
  f(tf.zeros([1, 3]))
  f(tf.zeros([5, 3]))
  for misfit in (tf.zeros([1, 4]), tf.zeros([1]), tf.zeros([1, 3], tf.int32)):
    with pytest.raises(tf.errors.InvalidArgumentError, match='first called'):
      f(misfit)
    with pytest.raises(tf.errors.InvalidArgumentError, match='first called'):
      tf.function(lambda x: f(x))(misfit)
  with pytest.raises((TypeError, ValueError)):
    f((tf.zeros([1, 3]), tf.zeros([1, 3])))
  with pytest.raises(TypeError):
    f(y=tf.zeros([1, 3]))
  f(np.zeros([2, 3]))  # NumPy's float64 becomes what the first call had.


def test_rows_of_unknown_shape():
  f = _options(minimum_batch_size=2)(lambda x: x + 1)
  g = tf.function(
    lambda x: f(x), input_signature=[tf.TensorSpec([None, None], tf.float32)]
  )
  calls = [Call(g, tf.zeros([1, 3])) for _ in range(2)]
  assert all(call.result().shape == [1, 3] for call in calls)
  # Those that fit the first of the batch run, the others are told.
  calls = [Call(g, tf.zeros([1, n])) for n in (2, 4)]
  outcomes = [call.outcome() for call in calls]
  errors = [o for o in outcomes if isinstance(o, Exception)]
  assert len(errors) == 1
  assert isinstance(errors[0], tf.errors.InvalidArgumentError)


def test_more_rows_than_the_maximum():
  f = _options(maximum_batch_size=4)(lambda x: x)
  with pytest.raises(tf.errors.InvalidArgumentError, match='maximum_batch_siz'):
    f(tf.zeros([5]))
  assert f(tf.zeros([4])).shape == [4]


@pytest.mark.parametrize(
  ('options', 'match'),
  [
    ({'minimum_batch_size': 0}, 'minimum_batch_size'),
    ({'minimum_batch_size': 5, 'maximum_batch_size': 4}, 'minimum_batch_size'),
    ({'maximum_batch_size': 0}, 'maximum_batch_size'),
    ({'timeout_ms': -1}, 'timeout_ms'),
  ],
)
def test_options(options, match):
  with pytest.raises(ValueError, match=match):
    dynamic_batching.batch_fn_with_options(**options)


# Cancellation and the end.


def _cancelable(f):
  """A tf.function around `f`, and what cancels its calls."""
  manager = cancellation.CancellationManager()
  concrete = tf.function(lambda x: f(x)).get_concrete_function(
    tf.TensorSpec([None], tf.float32)
  )
  return manager.get_cancelable_function(concrete), manager


def test_cancelled_while_waiting():
  f = _options(minimum_batch_size=3)(lambda x: x + 1)
  cancelable, manager = _cancelable(f)
  cancelled, other = Call(cancelable, _rows(1)), Call(f, _rows(2))
  _settle()
  manager.start_cancel()
  assert isinstance(cancelled.error(), tf.errors.CancelledError)
  assert other.is_alive()
  calls = [Call(f, _rows(i)) for i in range(2)]
  assert other.result().numpy() == [3]
  assert [call.result().numpy() for call in calls] == [1, 2]
  assert f.statistics()[:2] == (1, 3)


def test_cancelled_while_running():
  gate = Gate()
  f = _options(minimum_batch_size=2)(gate.passes)
  cancelable, manager = _cancelable(f)
  cancelled, other = Call(cancelable, _rows(1)), Call(f, _rows(2))
  gate.await_batch()
  manager.start_cancel()
  assert isinstance(cancelled.error(), tf.errors.CancelledError)
  assert other.is_alive()
  gate.open()
  assert other.result().numpy() == [2]


def test_cancelled_before_the_call():
  f = dynamic_batching.batch_fn(lambda x: x)
  cancelable, manager = _cancelable(f)
  manager.start_cancel()
  assert isinstance(
    Call(cancelable, _rows(1)).error(), tf.errors.CancelledError
  )
  assert f(_rows(1)).numpy() == [1]


def test_callers_function_may_go_while_its_batch_runs():
  gate = Gate()

  def function(x):
    x = gate.passes(x)
    # Control flow, whose parts are looked up as they run.
    return tf.cond(tf.size(x) > 1, lambda: -x, lambda: x)

  f = _options(minimum_batch_size=2)(function)
  cancelable, manager = _cancelable(f)
  cancelled = Call(cancelable, _rows(1))
  _settle()
  other = Call(f, _rows(2))
  gate.await_batch()
  manager.start_cancel()
  assert isinstance(cancelled.error(), tf.errors.CancelledError)
  del cancelable, cancelled
  gc.collect()
  gate.open()
  assert other.result().numpy() == [-2]


def test_cancellations_at_any_moment():
  f = _options(minimum_batch_size=4, timeout_ms=1)(lambda x: x + 1)
  f(_rows(0))
  concrete = tf.function(lambda x: f(x)).get_concrete_function(
    tf.TensorSpec([None], tf.float32)
  )
  outcomes = collections.Counter()

  def caller(index):
    for i in range(40):
      manager = cancellation.CancellationManager()
      canceller = threading.Timer((i % 8) * 5e-4, manager.start_cancel)
      canceller.start()
      try:
        result = manager.get_cancelable_function(concrete)(_rows(index))
        assert result.numpy() == [index + 1]
        outcomes['results'] += 1
      except tf.errors.CancelledError:
        outcomes['cancelled'] += 1
      canceller.join()

  unharmed = [Call(lambda: [f(_rows(7)) for _ in range(100)]) for _ in range(4)]
  calls = [Call(caller, index) for index in range(8)]
  for call in calls + unharmed:
    call.result()
  assert outcomes.total() == 8 * 40


@pytest.mark.parametrize('inside', [False, True])
def test_close_while_waiting(inside):
  f = _options(minimum_batch_size=8)(lambda x: x)
  g = tf.function(lambda x: f(x)) if inside else f
  calls = [Call(g, _rows(i)) for i in range(3)]
  _settle()
  f.close()
  _assert_all_fail(calls, tf.errors.CancelledError, 'closed')
  for _ in range(2):
    with pytest.raises(tf.errors.CancelledError, match='closed'):
      g(_rows(1))
  f.close()
  assert f.statistics().batches == 0


def test_close_while_running():
  gate = Gate()
  f = _options(minimum_batch_size=2)(gate.passes)
  running = [Call(f, _rows(i)) for i in range(2)]
  gate.await_batch()
  waiting = Call(f, _rows(3))
  _settle()
  f.close()
  _assert_all_fail([*running, waiting], tf.errors.CancelledError, 'closed')


def test_close_does_not_wait_for_a_deaf_function():
  entered, leave = threading.Event(), threading.Event()

  def python(x):
    entered.set()
    leave.wait(GUARD_SECONDS)
    return x

  f = dynamic_batching.batch_fn(
    lambda x: tf.numpy_function(python, [x], tf.float32)
  )
  call = Call(f, _rows(1))
  assert entered.wait(GUARD_SECONDS)
  Call(f.close).result()
  _assert_all_fail([call], tf.errors.CancelledError, 'closed')
  leave.set()


def test_close_before_the_first_call():
  f = dynamic_batching.batch_fn(lambda x: x)
  f.close()
  f.close()
  with pytest.raises(tf.errors.CancelledError, match='closed'):
    f(_rows(1))


def _endless(f):
  # A function of its own, so that each loop has its own `f`.
  return tf.function(
    lambda: tf.while_loop(
      lambda x: x[0] >= 0, lambda x: (f(x),), (tf.zeros([1]),)
    )
  )


def test_close_at_any_moment():
  for i in range(20):
    f = _options(minimum_batch_size=1 + i % 2, timeout_ms=1)(lambda x: x + 1)
    f(_rows(0))

    calls = [Call(_endless(f)) for _ in range(4)]
    time.sleep(0.02 + 0.002 * i)
    Call(f.close).result()
    _assert_all_fail(calls, tf.errors.CancelledError, 'closed')


def _threads():
  return len(os.listdir('/proc/self/task'))


def test_garbage_collection():
  dynamic_batching.batch_fn(lambda x: x)(_rows(1))  # TensorFlow's own threads.
  gc.collect()
  before = _threads()
  functions = []
  for i in range(20):
    f = _options(minimum_batch_size=1 + i % 2, timeout_ms=1)(lambda x: x + 1)
    f(_rows(1))
    tf.function(lambda x, f=f: f(x))(_rows(1))
    functions.append(weakref.ref(f))
    del f
  deadline = time.monotonic() + GUARD_SECONDS
  while _threads() > before + 5 and time.monotonic() < deadline:
    gc.collect()
    time.sleep(0.1)
  assert _threads() <= before + 5
  assert not any(function() for function in functions)


def test_abandoned_while_calls_wait():
  f = _options(minimum_batch_size=2, timeout_ms=500)(lambda x: x + 1)
  call = Call(f, _rows(1))
  _settle()
  del f
  gc.collect()
  assert call.result().numpy() == [2]


# The end of the process.


def _run_script(code):
  process = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(code)],
    env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3'},
    capture_output=True,
    text=True,
    timeout=GUARD_SECONDS,
    check=False,
  )
  assert process.returncode == 0, process.stderr[-3000:]
  assert 'Fatal' not in process.stderr, process.stderr[-3000:]


@pytest.mark.parametrize(
  ('minimum', 'body'),
  [
    (1, 'x'),
    (2, 'x'),  # Its calls wait for ever.
    (1, 'queue.dequeue() + x'),  # Its batch runs for ever.
  ],
)
def test_exit_while_calls_are_pending(minimum, body):
  _run_script(f"""
    import threading, time
    import tensorflow as tf
    from impala import dynamic_batching
    queue = tf.queue.FIFOQueue(1, [tf.float32], [[]])
    options = dict(minimum_batch_size={minimum}, timeout_ms=10 ** 6)

    @dynamic_batching.batch_fn_with_options(**options)
    def f(x):
      return {body}

    @tf.function
    def loop():
      return tf.while_loop(lambda x: True, f, [tf.zeros([1])])

    x = tf.zeros([1])
    for target in (lambda: f(x), loop):
      threading.Thread(target=target, daemon=True).start()
    time.sleep(2)
  """)


def test_exit_after_errors():
  _run_script("""
    import tensorflow as tf
    from impala import dynamic_batching

    @dynamic_batching.batch_fn
    def f(x):
      tf.debugging.assert_positive(x)
      return x

    keep = tf.function(lambda x: f(x))
    try:
      keep(tf.zeros([1]))
    except tf.errors.InvalidArgumentError:
      pass
    else:
      raise AssertionError
  """)


def test_other_handles_are_refused():
  ops = ops_library.load('dynamic_batching/_ops.so')
  with pytest.raises(tf.errors.InvalidArgumentError, match='type'):
    ops.impala_batcher_close(batcher=tf.Variable(1).handle)
