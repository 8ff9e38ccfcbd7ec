"""The Python side of dynamic batching: decorators over the C++ ops."""

import functools
import inspect
import threading
from typing import NamedTuple

import tensorflow as tf
from tensorflow.python.framework import auto_control_deps_utils

from impala import ops_library

_OPS = ops_library.load('dynamic_batching/_ops.so')

# Otherwise two calls in one tf.function would wait for each other, not share.
auto_control_deps_utils.register_read_only_resource_op('ImpalaBatch')
tf.no_gradient('ImpalaBatch')


class Statistics(NamedTuple):
  """What a batched function has done since it was made."""

  batches: int
  rows: int
  seconds_waited: float  # Summed over rows, from the call to its result.

  @property
  def mean_batch_size(self) -> float:
    """Rows in a batch."""
    return self.rows / self.batches if self.batches else 0.0


class _Traced(NamedTuple):
  """What the first call decides for all others."""

  batcher: tf.Tensor
  structure: tuple  # Of the arguments, (args, kwargs).
  specs: list[tf.TensorSpec]  # Of the arguments, flattened.
  reads: list[tf.Tensor]  # Captured resources, such as variables.
  concrete: tf.types.experimental.ConcreteFunction  # Keeps what it calls.
  results: tuple  # The flattened results: a TensorSpec each, or None.
  dtypes: list[tf.DType]  # Of the results that are tensors.


class BatchedFunction:
  """A function whose concurrent calls run as one; see `batch_fn_with_options`.

  Thread-safe. No gradient flows through it. As a method, it batches the calls
  of each instance on their own.
  """

  def __init__(
    self, function, minimum_batch_size, maximum_batch_size, timeout_ms
  ):
    if not 1 <= minimum_batch_size <= maximum_batch_size:
      raise ValueError(
        '1 <= minimum_batch_size <= maximum_batch_size must hold; got '
        f'{minimum_batch_size} and {maximum_batch_size}.'
      )
    if timeout_ms < 0:
      raise ValueError(f'timeout_ms must not be negative; got {timeout_ms}.')
    self._function = function
    self._options = {
      'minimum_batch_size': int(minimum_batch_size),
      'maximum_batch_size': int(maximum_batch_size),
      'timeout_ms': int(timeout_ms),
    }
    self._lock = threading.RLock()
    self._closed = False
    self._tracing = False
    self._traced = None
    # Callable objects may have no name of their own.
    self.__name__ = type(function).__name__
    functools.update_wrapper(self, function)
    # TensorFlow would trace what it finds there, and nothing would be batched.
    del self.__wrapped__

  def __set_name__(self, owner, name):
    self._attribute = name

  def __get__(self, instance, owner=None):
    if instance is None:
      return self
    bound = BatchedFunction(
      self._function.__get__(instance, owner), **self._options
    )
    # From now on the instance's own attribute is found before this one.
    return instance.__dict__.setdefault(self._attribute, bound)

  def _trace(self, structure, tensors):
    """Traces the function for the first call's signature; all share it."""
    with self._lock:
      if self._tracing:
        raise RuntimeError(
          f'{self.__name__} calls itself: it would wait for itself for ever.'
        )
      if self._traced is not None:
        return self._traced
      if self._closed:
        raise tf.errors.CancelledError(None, None, 'The batcher is closed.')
      self._tracing = True
      try:
        self._traced = self._trace_now(structure, tensors)
      finally:
        self._tracing = False
      return self._traced

  def _trace_now(self, structure, tensors):
    specs = [_batched_spec(tensor) for tensor in tensors]
    args, kwargs = tf.nest.pack_sequence_as(structure, specs)
    with tf.init_scope():
      concrete = tf.function(self._function).get_concrete_function(
        *args, **kwargs
      )
    if not concrete.outputs:
      raise ValueError(f'{self.__name__} needs at least one output to batch.')
    captured = concrete.captured_inputs
    reads = [tensor for tensor in captured if tensor.dtype == tf.resource]
    # TensorFlow places the calls where their resources are: let these agree.
    with tf.init_scope(), tf.device(reads[0].device if reads else 'CPU:0'):
      batcher = _OPS.impala_batcher(
        f=concrete, captured=captured, **self._options
      )
    results = tf.nest.flatten(
      concrete.structured_outputs, expand_composites=True
    )
    return _Traced(
      batcher=batcher,
      structure=tf.nest.pack_sequence_as(structure, specs),
      specs=specs,
      reads=reads,
      concrete=concrete,
      results=tuple(
        None if result is None else tf.TensorSpec(result.shape, result.dtype)
        for result in results
      ),
      dtypes=[tensor.dtype for tensor in concrete.outputs],
    )

  @tf.autograph.experimental.do_not_convert
  def __call__(self, *args, **kwargs):
    """Calls the function on these rows and those of concurrent callers."""
    if kwargs:  # f(x, y=y) is f(x, y).
      bound = inspect.signature(self._function).bind(*args, **kwargs)
      args, kwargs = bound.args, bound.kwargs
    structure = (args, kwargs)
    traced = self._traced
    if traced is None:
      tensors = [tf.convert_to_tensor(x) for x in tf.nest.flatten(structure)]
      if not tensors:
        raise ValueError(f'{self.__name__} needs at least one input to batch.')
      traced = self._trace(structure, tensors)
    tf.nest.assert_same_structure(traced.structure, structure)
    tensors = [
      _checked(self.__name__, value, spec)
      for value, spec in zip(
        tf.nest.flatten(structure), traced.specs, strict=True
      )
    ]
    outputs = _OPS.impala_batch(
      batcher=traced.batcher,
      inputs=tensors,
      reads=traced.reads,
      Tout=traced.dtypes,
    )
    if not tf.executing_eagerly():
      # Without a consumer, an op that only reads resources would not run.
      outputs[0] = tf.identity(outputs[0])
    if len(traced.results) > len(outputs):
      present = iter(outputs)
      outputs = [spec and next(present) for spec in traced.results]
    if not tf.executing_eagerly():
      rows = tensors[0].shape[:1]
      for output, spec in zip(outputs, traced.results, strict=True):
        if spec and spec.shape.rank:  # Known beyond the batch dimension.
          output.set_shape(rows.concatenate(spec.shape[1:]))
    return tf.nest.pack_sequence_as(
      traced.concrete.structured_outputs, outputs, expand_composites=True
    )

  def close(self):
    """Cancels the calls that wait or run, and every later one."""
    with self._lock:
      self._closed = True
      traced = self._traced
    if traced is not None:
      _OPS.impala_batcher_close(batcher=traced.batcher)

  def statistics(self) -> Statistics:
    """Returns counts since the function was made."""
    if self._traced is None:
      return Statistics(0, 0, 0.0)
    batches, rows, nanoseconds = _OPS.impala_batcher_statistics(
      batcher=self._traced.batcher
    ).numpy()
    return Statistics(int(batches), int(rows), float(nanoseconds) / 1e9)


def _checked(name, value, spec):
  """Converts to a tensor, which must fit `spec`."""
  tensor = tf.convert_to_tensor(value, dtype_hint=spec.dtype)
  if tensor.dtype == spec.dtype and spec.shape.is_compatible_with(tensor.shape):
    return tensor
  raise tf.errors.InvalidArgumentError(
    None,
    None,
    f'{name} was first called with {spec}; all its calls share batches, so '
    f'{tensor.dtype.name}{tensor.shape} does not fit.',
  )


def _batched_spec(tensor):
  if tensor.shape.rank == 0:
    raise tf.errors.InvalidArgumentError(
      None, None, 'Every input needs a leading batch dimension; got a scalar.'
    )
  if tensor.shape.rank is None:
    return tf.TensorSpec(None, tensor.dtype)
  return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)


def batch_fn_with_options(
  minimum_batch_size=1, maximum_batch_size=1024, timeout_ms=100
):
  """Makes a decorator that batches concurrent calls of a function.

  Calls, eager from any thread or inside tf.functions, wait until at least
  `minimum_batch_size` rows have gathered, or the oldest call has waited
  `timeout_ms`; then at most `maximum_batch_size` rows run as one call. While a
  batch runs, the next one gathers (Section 3.1 of the paper: the actors'
  inference is batched dynamically).

  Args:
    minimum_batch_size: Rows to wait for.
    maximum_batch_size: Rows to run at most, and the most of a single call.
    timeout_ms: Milliseconds after which fewer than the minimum run.

  Returns:
    A decorator for functions of tensors or nests of them, with a leading batch
    dimension on every input and output. The function is traced once, as a
    tf.function. The decorated function, a `BatchedFunction`, takes and returns
    what the plain one does. Its calls raise
    `tf.errors.InvalidArgumentError` where batch dimensions are missing or
    differ, where a call does not fit the first call's signature, or, in every
    caller of the batch, where an output's leading dimension is not the batch
    size; whatever error the function itself raises, in every caller of the
    batch; `tf.errors.CancelledError` when the caller is cancelled or after
    `close()`.

  Raises:
    ValueError: The sizes or the timeout make no sense.
  """

  def decorator(function):
    return BatchedFunction(
      function, minimum_batch_size, maximum_batch_size, timeout_ms
    )

  # The checks are made here, where the mistake is, not at the first call.
  decorator(lambda: None)
  return decorator


def batch_fn(function):
  """Batches concurrent calls, with `batch_fn_with_options`'s defaults."""
  return batch_fn_with_options()(function)
