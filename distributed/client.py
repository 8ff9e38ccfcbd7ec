"""An actor process's side of the service."""

import itertools
import logging
import random
import threading
import uuid
from collections.abc import Callable, Sequence

import grpc

from impala.distributed import codec, framing, server, service_pb2
from impala.environments import protocol

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0  # Seconds between two attempts.
_POLL_SECONDS = 0.1


class Stopped(Exception):
  """The client was told to stop."""


class LearnerClient:
  """Talks to one learner, whether it is there yet, still or again.

  For one thread, but for `stop`.
  """

  def __init__(
    self,
    address: str,
    task: int,
    signature: str,
    credentials: grpc.ChannelCredentials | None = None,
    compress: bool = False,
  ):
    """Makes a client; it connects when it is used.

    Args:
      address: The learner's, 'host:port'.
      task: The actor's number.
      signature: See `remote_pool.run_signature`.
      credentials: Where given, TLS is spoken.
      compress: Whether unrolls are compressed on the way.
    """
    options = [
      *server.KEEPALIVE,
      ('grpc.max_receive_message_length', -1),  # The learner is trusted.
      ('grpc.max_send_message_length', -1),
      ('grpc.initial_reconnect_backoff_ms', 500),
      ('grpc.max_reconnect_backoff_ms', 5000),
    ]
    self._address = address
    self._task = task
    self._signature = signature
    self._compress = compress
    self._incarnation = uuid.uuid4().hex
    self._sequence = 0
    self._known = ('', 0)  # The parameters': learner and version.
    self._stopping = threading.Event()
    if credentials is None:
      self._channel = grpc.insecure_channel(address, options)
    else:
      self._channel = grpc.secure_channel(address, credentials, options)

    self._call_join, self._call_exchange = (
      self._channel.unary_unary(f'/{server.SERVICE}/{method}')
      for method in ('Join', 'Exchange')
    )

  def stop(self) -> None:
    """Ends what is under way, and every later call, with `Stopped`."""
    self._stopping.set()

  def close(self) -> None:
    """Closes the connection."""
    self._channel.close()

  def join(self) -> None:
    """Waits until the learner is there, and asks it for a welcome.

    Raises:
      UserError: It refuses this actor.
      Stopped: `stop` was called.
    """
    request = service_pb2.JoinRequest(
      task=self._task, signature=self._signature
    )
    reply, _ = self._persist(
      self._call_join, framing.pack(request), service_pb2.JoinReply
    )
    if reply.refusal:
      raise protocol.UserError(
        f'The learner at {self._address} refuses this actor: {reply.refusal}.'
      )

  def exchange(self, unrolls: Sequence[list], totals) -> tuple[int, memoryview]:
    """Sends unrolls, and waits until the learner has room for them.

    Args:
      unrolls: What `codec.encode` gave of each; it goes to the learner once,
        come what may.
      totals: An `actor_pool.Totals`.

    Returns:
      The learner's update count and its parameters, encoded; empty where they
      are those of the last call.

    Raises:
      UserError: The learner refuses this actor.
      Stopped: `stop` was called.
    """
    request = service_pb2.ExchangeRequest(
      task=self._task,
      incarnation=self._incarnation,
      signature=self._signature,
      totals=service_pb2.Totals(**totals._asdict()),
      learner=self._known[0],
      version=self._known[1],
    )
    if self._compress:
      unrolls = [[codec.compress(b''.join(unroll))] for unroll in unrolls]
    for unroll in unrolls:
      self._sequence += 1
      request.unrolls.add(
        sequence=self._sequence,
        size=codec.size(unroll),
        compressed=self._compress,
      )
    reply, parameters = self._persist(
      self._call_exchange,
      framing.pack(request, itertools.chain.from_iterable(unrolls)),
      service_pb2.ExchangeReply,
    )
    self._known = (reply.learner, reply.version)
    return reply.version, parameters

  def _persist(self, call: Callable, message: bytes, kind):
    """Calls until there is an answer; returns it, and the bytes after it."""
    pause, told = _FIRST_PAUSE, False
    while True:
      try:
        reply = self._wait(call.future(message))
        if told:
          _log('The learner at %s answers again.', self._address)
        return framing.unpack(kind, reply)
      except ValueError as error:
        raise protocol.UserError(
          f'What is at {self._address} answers as no learner does ({error}): '
          'give both the same version of this software.'
        ) from error
      except grpc.RpcError as error:
        self._check(error)
        if not told:
          _log(
            'The learner at %s does not answer (%s); trying on.',
            self._address,
            error.details(),
          )
          told = True
      if self._stopping.wait(pause * random.uniform(0.5, 1.0)):
        raise Stopped
      pause = min(2 * pause, _LONGEST_PAUSE)

  def _wait(self, future):
    while True:
      try:
        return future.result(timeout=_POLL_SECONDS)
      except grpc.FutureTimeoutError:
        if self._stopping.is_set():
          future.cancel()
          raise Stopped from None

  def _check(self, error):
    """Raises where to try on is of no use."""
    if error.code() in (
      grpc.StatusCode.FAILED_PRECONDITION,
      grpc.StatusCode.INVALID_ARGUMENT,
      grpc.StatusCode.RESOURCE_EXHAUSTED,
    ):
      raise protocol.UserError(
        f'The learner at {self._address} refuses what this actor sends '
        f'({error.details()}): give both the same version of this software, '
        'and the same flags.'
      ) from error


def _log(message, *arguments):
  logging.getLogger('impala').warning(message, *arguments)
