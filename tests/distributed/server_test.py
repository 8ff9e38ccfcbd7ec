import contextlib

import grpc
import pytest

from impala.distributed import server


@pytest.fixture
def serve():
  """Starts servers of one method; gives their address and call."""
  with contextlib.ExitStack() as cleanup:

    def serve(method, maximum_bytes=1000):
      made = server.Server({'Do': method}, maximum_bytes, 'localhost:0')
      cleanup.callback(made.close)
      made.start()
      channel = cleanup.enter_context(grpc.insecure_channel(made.address))
      return made, channel.unary_unary(f'/{server.SERVICE}/Do')

    yield serve


def test_bytes_in_and_out(serve):
  _, call = serve(lambda data, _: data[::-1])
  assert call(b'abc', timeout=20) == b'cba'


def test_what_cannot_be_parsed_is_refused(serve):
  def refuse(_, context):
    with server.parsing(context):
      raise ValueError('It is the wrong one.')

  with pytest.raises(grpc.RpcError, match='the wrong one') as caught:
    serve(refuse)[1](b'', timeout=20)
  assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_method_may_say_more(serve):
  _, call = serve(
    lambda _, context: context.abort(grpc.StatusCode.UNAVAILABLE, 'It ends.')
  )
  with pytest.raises(grpc.RpcError, match='It ends') as caught:
    call(b'', timeout=20)
  assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_what_is_too_large(serve):
  _, call = serve(lambda data, _: data, maximum_bytes=10)
  assert call(bytes(10), timeout=20)
  with pytest.raises(grpc.RpcError) as caught:
    call(bytes(11), timeout=20)
  assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_address_that_is_taken(serve):
  first, _ = serve(lambda data, _: data)
  with pytest.raises(OSError, match='cannot be listened at'):
    server.Server({}, 10, first.address)
