"""Learners that update together: each step is one all-reduce of all of them.

The variables are ordinary ones of each process, alike from the start and
changed alike. What is reduced are sums, as the loss is one over a batch:
learners with a share of the batch each do what one does with the whole.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf


class Alone:
  """The group of a single learner."""

  size = 1

  def run(self, function: Callable, *arguments):
    """Calls a function in which `sum` may be called; for tf.functions."""
    return function(*arguments)

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

  Where one is gone, the others' calls raise `tf.errors.OpError`.
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
      lambda flag: self.run(lambda: self.sum([flag])[0] > 0),
      autograph=False,
      input_signature=[tf.TensorSpec([], tf.float32)],
    )

  def run(self, function, *arguments):
    """As one replica of the strategy."""
    return self._strategy.run(function, arguments)

  def sum(self, tensors):
    """Inside `run` alone."""
    # The copies have a device, which inputs of a tf.function lack.
    return tf.distribute.get_replica_context().all_reduce(
      tf.distribute.ReduceOp.SUM, [tf.identity(t) for t in tensors]
    )

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
      def replica():
        values = self.sum(
          [v.read_value() if first else tf.zeros_like(v) for v in variables]
        )
        for variable, value in zip(variables, values, strict=True):
          variable.assign(value)

      self.run(replica)

    adopt()
