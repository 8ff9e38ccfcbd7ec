"""The learner's side of the service: takes unrolls, gives parameters."""

import collections
import threading
import uuid
from collections.abc import Sequence

import grpc
import numpy as np
import tensorflow as tf

from impala import actor, actor_pool, batches, structures
from impala.distributed import (
  codec,
  framing,
  inbox,
  memory,
  server,
  service_pb2,
  tls,
  unroll_reader,
)
from impala.environments import protocol

MAXIMUM_UNROLLS = 64  # In a message.
ENOUGH_BYTES = 64 << 20  # For a message to be sent.
_REMEMBERED = 4 * server.MAXIMUM_ACTORS  # Incarnations of actors.
_LONGEST_NAME = 64  # Of an incarnation.
_HIGHEST_TOTAL = 2**48  # Sums of as many as there are fit 64 bits.


def run_signature(
  specs: structures.Trajectory, variables: Sequence[tf.Variable]
) -> str:
  """Returns what learner and actors must have in common."""
  return codec.signature(specs, variable_specs(variables))


def variable_specs(variables: Sequence[tf.Variable]) -> list[tf.TensorSpec]:
  """Returns the specs of the variables' values."""
  return [tf.TensorSpec(v.shape, v.dtype) for v in variables]


def check_size(specs: structures.Trajectory) -> None:
  """Raises a UserError where an unroll does not fit a message."""
  size = codec.Decoder(tf.nest.flatten(specs)).maximum_bytes
  if size > server.MAXIMUM_BYTES - 2 * framing.LONGEST_HEAD:
    raise protocol.UserError(
      f'An unroll takes up to {size / 1e9:.1f} GB, and a message holds 2 GB: a '
      'lower --unroll_length, --width or --height makes it smaller.'
    )


_NO_TOTALS = actor_pool.Totals(0, 0, 0, 0.0, 0.0, 0.0, 0)


class _Incarnation:
  """What is known of one process of actors."""

  def __init__(self):
    self.lock = threading.Lock()
    # Guarded by the lock.
    self.last = 0  # The sequence number that was taken last.


class RemotePool:
  """Actors in other processes, to the learner what `ActorPool` is.

  Thread-safe.

  Attributes:
    specs: Of the trajectories, a `structures.Trajectory`.
    permits: None.
    error: None.
    address: Where the service listens, 'host:port'.
    received: How many trajectories were taken.
  """

  permits = None
  error = None

  def __init__(
    self,
    specs: structures.Trajectory,
    num_actions: int,
    variables: Sequence[tf.Variable],
    updates: tf.Variable,
    batch_size: int,
    address: str,
    credentials: grpc.ServerCredentials | None = None,
  ):
    """Reserves the address.

    Args:
      specs: See `actor.trajectory_specs`.
      num_actions: That actors choose from.
      variables: The agent's, which actors get.
      updates: The learner's update count.
      batch_size: Trajectories in a batch.
      address: 'host:port'; port 0 for any.
      credentials: Where given, TLS is spoken.

    Raises:
      OSError: The address can't be listened at.
    """
    self.specs = specs
    self._inbox = inbox.Inbox(batch_size)
    self.received = 0
    self._read = unroll_reader.UnrollReader(specs, num_actions)
    # One call for all: eager reads cost more than the copies.
    self._values = tf.function(
      lambda: [v.read_value() for v in variables], autograph=False
    )
    self._updates = updates
    self._signature = run_signature(specs, variables)
    self._id = uuid.uuid4().hex
    self._lock = threading.Lock()
    # Guarded by the lock.
    self._incarnations = collections.OrderedDict()
    self._totals = collections.OrderedDict()  # By task.
    self._snapshot = (-1, b'')  # The newest parameters, as a reply.
    self._server = server.Server(
      {'Join': self._join, 'Exchange': self._exchange},
      MAXIMUM_UNROLLS * self._read.maximum_bytes + framing.LONGEST_HEAD,
      address,
      credentials,
    )
    self.address = self._server.address

  def start(self, _=()) -> None:
    """Takes trajectories from now on."""
    self._server.start()

  def take_batch(self) -> structures.Trajectory:
    """Waits for a batch, of NumPy arrays.

    Raises:
      tf.errors.CancelledError: The pool is closed.
    """
    try:
      unrolls = self._inbox.take()
    except inbox.Closed:
      raise tf.errors.CancelledError(None, None, 'closed') from None
    return batches.stack(unrolls, self.specs, np.stack)

  def totals(self) -> actor_pool.Totals:
    """Returns the sums of what the actors tell."""
    with self._lock:
      totals = list(self._totals.values())
    return actor_pool.Totals(*map(sum, zip(_NO_TOTALS, *totals, strict=True)))

  def close(self) -> None:
    """Refuses actors from now on; no more trajectories come."""
    self._inbox.close()
    self._server.close()
    print(f'{self.received} unrolls were received.')

  def _join(self, data, context):
    with server.parsing(context):
      request, _ = framing.unpack(service_pb2.JoinRequest, data)
    refusal = ''
    if request.signature != self._signature:
      refusal = (
        "its environments or its agent differ from the learner's: give both "
        'the same --level_name, --network, --unroll_length, --width and '
        '--height'
      )
    return framing.pack(service_pb2.JoinReply(refusal=refusal))

  def _exchange(self, data, context):
    with server.parsing(context):
      request, body = framing.unpack(service_pb2.ExchangeRequest, data)
    if request.signature != self._signature:
      context.abort(
        grpc.StatusCode.FAILED_PRECONDITION, 'another agent: join first'
      )
    with server.parsing(context):
      unrolls = self._unrolls(request, body)
    incarnation = self._incarnation(request)
    try:
      with incarnation.lock:  # Of the same unrolls, sent twice, too.
        for sequence, unroll in unrolls:
          if sequence > incarnation.last:
            self._inbox.put(unroll)
            incarnation.last = sequence
            with self._lock:
              self.received += 1
    except inbox.Closed:
      context.abort(grpc.StatusCode.UNAVAILABLE, 'the learner ends')
    return self._reply(request.learner, request.version)

  def _unrolls(self, request, body):
    """Returns what was sent, each with its sequence number."""
    if (
      len(request.unrolls) > MAXIMUM_UNROLLS
      or len(request.incarnation) > _LONGEST_NAME
    ):
      raise ValueError('Too many unrolls, or too long a name.')
    updates = int(self._updates)
    unrolls = []
    tensors = framing.split(body, [unroll.size for unroll in request.unrolls])
    for unroll, data in zip(request.unrolls, tensors, strict=True):
      if unroll.compressed:
        data = codec.decompress(data, self._read.maximum_bytes)
      unrolls.append((unroll.sequence, self._read(data, updates)))
    return unrolls

  def _incarnation(self, request):
    """Returns what is known of the sender, and takes note of its totals."""
    totals = request.totals
    with self._lock:
      if request.unrolls:
        self._totals[request.task] = actor_pool.Totals(
          # In this order, what is not a number becomes 0.
          *(
            min(max(0, getattr(totals, name)), _HIGHEST_TOTAL)
            for name in actor_pool.Totals._fields
          )
        )
        self._totals.move_to_end(request.task)
        if len(self._totals) > server.MAXIMUM_ACTORS:
          self._totals.popitem(last=False)
      incarnation = self._incarnations.setdefault(
        request.incarnation, _Incarnation()
      )
      self._incarnations.move_to_end(request.incarnation)
      if len(self._incarnations) > _REMEMBERED:
        self._incarnations.popitem(last=False)
      return incarnation

  def _reply(self, learner, version):
    """Returns a reply, with parameters if they are newer."""
    with self._lock:
      updates = int(self._updates)
      reply = service_pb2.ExchangeReply(learner=self._id, version=updates)
      if (learner, version) == (self._id, updates):
        return framing.pack(reply)
      if self._snapshot[0] != updates:  # Made once for all actors.
        parameters = codec.encode(self._values())
        self._snapshot = (updates, framing.pack(reply, parameters))
      return self._snapshot[1]


def make_pool(config, learning, spec, batch_size: int) -> RemotePool:
  """Makes the pool of the actors that the flags let connect.

  Args:
    config: Has experiment.py's flags as attributes.
    learning: The `learner.Learner`.
    spec: The environments'.
    batch_size: This learner's.

  Raises:
    UserError: The address can't be used, or unrolls are too large.
  """
  memory.keep_large_blocks()
  address = config.learner_hosts[config.task]
  credentials = tls.server_credentials(config, address)
  specs = actor.trajectory_specs(learning.agent, spec, config.unroll_length)
  check_size(specs)
  try:
    pool = RemotePool(
      specs,
      spec.num_actions,
      learning.agent.trainable_variables,
      learning.updates,
      batch_size,
      address,
      credentials,
    )
  except OSError as error:
    raise protocol.UserError(
      f'{error}: name another with --learner_hosts.'
    ) from error
  how = 'with TLS' if credentials else 'in plain text'
  print(f'Actors may connect to {pool.address}, {how}.', flush=True)
  return pool
