"""The service's gRPC server: a thread for each call, and bounds on both."""

import concurrent.futures
import contextlib
from collections.abc import Callable, Mapping

import grpc

SERVICE = 'impala.distributed.Learner'
MAXIMUM_ACTORS = 1024  # Each waits on a thread of its own.
MAXIMUM_BYTES = 2**31 - 1  # Of a message, that gRPC takes.
_GRACE_SECONDS = 1.0
# Peers that vanish without a word are noticed in half a minute.
KEEPALIVE = (
  ('grpc.keepalive_time_ms', 15_000),
  ('grpc.keepalive_timeout_ms', 15_000),
  ('grpc.keepalive_permit_without_calls', 1),
  ('grpc.http2.min_ping_interval_without_data_ms', 10_000),
  ('grpc.http2.max_pings_without_data', 0),
)

# From a message and its gRPC context to a reply. gRPC's own place for a parser
# leaks 16 kB each time that it fails.
Method = Callable[[bytes, grpc.ServicerContext], bytes]


class Server:
  """Answers calls, each on a thread, from `start` to `close`.

  Attributes:
    address: Where it listens, 'host:port'.
  """

  def __init__(
    self,
    methods: Mapping[str, Method],
    maximum_bytes: int,
    address: str,
    credentials: grpc.ServerCredentials | None = None,
  ):
    """Reserves the address.

    Args:
      methods: By their names in service.proto.
      maximum_bytes: Of a message.
      address: 'host:port'; port 0 for any.
      credentials: Where given, TLS is spoken.

    Raises:
      OSError: The address can't be listened at.
    """
    self._server = grpc.server(
      concurrent.futures.ThreadPoolExecutor(MAXIMUM_ACTORS),
      options=[
        *KEEPALIVE,
        ('grpc.so_reuseport', 0),
        # Older gRPC expands a message whole before it measures it.
        ('grpc.compression_enabled_algorithms_bitset', 1),
        (
          'grpc.max_receive_message_length',
          min(maximum_bytes, MAXIMUM_BYTES),
        ),
      ],
    )
    handlers = {
      name: grpc.unary_unary_rpc_method_handler(method)
      for name, method in methods.items()
    }
    self._server.add_generic_rpc_handlers(
      [grpc.method_handlers_generic_handler(SERVICE, handlers)]
    )
    try:
      if credentials is None:
        port = self._server.add_insecure_port(address)
      else:
        port = self._server.add_secure_port(address, credentials)
    except RuntimeError as error:
      raise OSError(f'{address} cannot be listened at: {error}') from error
    self.address = f'{address.rpartition(":")[0]}:{port}'

  def start(self) -> None:
    """Answers from now on."""
    self._server.start()

  def close(self) -> None:
    """Refuses calls from now on, and waits a little for those under way."""
    self._server.stop(_GRACE_SECONDS).wait()


@contextlib.contextmanager
def parsing(context: grpc.ServicerContext):
  """A context in which a ValueError refuses the message, with its text."""
  try:
    yield
  except ValueError as error:
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
