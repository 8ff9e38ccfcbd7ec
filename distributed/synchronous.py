"""Learners that update together: each step is one all-reduce of all of them.

What is reduced are sums, as the loss is one over a batch: learners, or GPUs,
with a share of the batch each do what one does with the whole.
"""

import contextlib
from collections.abc import Callable, Sequence

import tensorflow as tf


class Alone:
  """The group of a single learner, with one device.

  Attributes:
    size: The number of learners.
    replicas: The devices of each.
  """

  size = 1
  replicas = 1

  def scope(self) -> contextlib.AbstractContextManager:
    """Variables that each replica has are to be made in this context."""
    return contextlib.nullcontext()

  def run(self, function: Callable):
    """Calls a function, in which `sum` may be called, in each replica.

    For tf.functions. The function gets the replica's index; the first one's
    results are returned.
    """
    return function(0)

  def sum(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the sums of all learners' tensors, which have one dtype."""
    return list(tensors)

  def any(self, flag: bool) -> bool:
    """Waits for all learners; returns whether any of them has a true flag."""
    return flag

  def adopt(self, variables: Sequence[tf.Variable]) -> None:
    """Gives the variables the values that they have in the first learner."""


class Group(Alone):
  """The learners of a cluster, which must all make the same calls in turn.

  The variables are ordinary ones of each process, alike from the start and
  changed alike. Where one is gone, the others' calls raise `tf.errors.OpError`.
  """

  def __init__(self, addresses: Sequence[str], task: int):
    """Waits for the other learners.

    Args:
      addresses: 'host:port' of each for this purpose alone.
      task: Which of them this is.
    """
    self.size = len(addresses)
    self._task = task
    self._strategy = tf.distribute.MultiWorkerMirroredStrategy(
      cluster_resolver=tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({'worker': list(addresses)}),
        task_type='worker',
        task_id=task,
        rpc_layer='grpc',
      )
    )
    self._any = tf.function(
      lambda flag: self.run(lambda _: self.sum([flag])[0] > 0),
      autograph=False,
      input_signature=[tf.TensorSpec([], tf.float32)],
    )

  def run(self, function):
    """As one replica of the strategy."""
    return self._strategy.run(function, [0])

  def sum(self, tensors):
    """Inside `run` alone."""
    return _all_reduce(tensors)

  def any(self, flag):
    """One small all-reduce."""
    return bool(self._any(tf.constant(float(flag))))

  def adopt(self, variables):
    """The others add nothing to the first learner's values."""
    # What is reduced at once is of one dtype.
    for dtype in sorted({v.dtype.name for v in variables}):
      self._adopt([v for v in variables if v.dtype.name == dtype])

  def _adopt(self, variables):
    first = self._task == 0

    @tf.function(autograph=False)
    def adopt():
      def replica(_):
        values = self.sum(
          [v.read_value() if first else tf.zeros_like(v) for v in variables]
        )
        for variable, value in zip(variables, values, strict=True):
          variable.assign(value)

      self.run(replica)

    adopt()


class Mirrored(Alone):
  """A single learner with several devices, mostly the GPUs of a machine."""

  def __init__(self, devices: Sequence[str]):
    """Makes a replica for each device."""
    self.replicas = len(devices)
    self._strategy = tf.distribute.MirroredStrategy(devices)

  def scope(self):
    """Variables are mirrored by all devices."""
    return self._strategy.scope()

  def run(self, function):
    """As a replica on each device."""

    def replica():
      context = tf.distribute.get_replica_context()
      return function(tf.get_static_value(context.replica_id_in_sync_group))

    results = self._strategy.run(replica)
    return tf.nest.map_structure(
      lambda result: self._strategy.experimental_local_results(result)[0],
      results,
    )

  def sum(self, tensors):
    """Inside `run` alone."""
    return _all_reduce(tensors)


def _all_reduce(tensors):
  # The copies have a device, which inputs of a tf.function lack.
  return tf.distribute.get_replica_context().all_reduce(
    tf.distribute.ReduceOp.SUM, [tf.identity(t) for t in tensors]
  )
