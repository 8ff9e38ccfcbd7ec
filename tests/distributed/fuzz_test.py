"""Messages that no actor of ours sends: the service takes no harm."""

import threading

import grpc
import hypothesis
import numpy as np
import psutil
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from impala.distributed import (
  codec,
  framing,
  remote_pool,
  server,
  service_pb2,
)

pytestmark = pytest.mark.usefixtures('time_limit')
TIME_LIMIT_SECONDS = 600

_REFUSED = {
  grpc.StatusCode.FAILED_PRECONDITION,
  grpc.StatusCode.INVALID_ARGUMENT,
  grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_MOST_GROWTH = 64e6  # Bytes.
_MOST_THREADS = 64  # More than are ever spoken on at once here.

_INT32 = st.integers(-(2**31), 2**31 - 1)
_INT64 = st.integers(-(2**63), 2**63 - 1)
_TOTALS = st.builds(
  service_pb2.Totals,
  actors=_INT64,
  batches=_INT64,
  batched_rows=_INT64,
  inference_seconds=st.floats(),
  environment_seconds=st.floats(),
  blocked_seconds=st.floats(),
  restarts=_INT64,
)


class _Service:
  """A pool whose batches are taken, and a connection to it."""

  def __init__(self, pool):
    self.pool = pool
    self.pool.start()
    self._taker = threading.Thread(target=self._take)
    self._taker.start()
    self._channel = grpc.insecure_channel(
      self.pool.address, [('grpc.max_send_message_length', -1)]
    )
    self.unroll = b''.join(
      codec.encode(
        [
          np.full(
            spec.shape,
            *(
              (b'', object) if spec.dtype == tf.string else (0, spec.dtype.name)
            ),
          )
          for spec in tf.nest.flatten(self.pool.specs)
        ]
      )
    )
    self._well = 0

  def _take(self):
    try:
      while True:
        self.pool.take_batch()
    except tf.errors.CancelledError:
      pass

  def close(self):
    self._channel.close()
    self.pool.close()
    self._taker.join()

  def begin(self, message, method='Exchange', **options):
    """Sends bytes; returns the call."""
    return self._channel.unary_unary(f'/{server.SERVICE}/{method}').future(
      message, timeout=60, **options
    )

  def answer(self, call):
    """Returns a reply, or None where the message was refused."""
    try:
      return call.result()
    except grpc.RpcError as error:
      assert error.code() in _REFUSED, error
      return None

  def message(self, tensors=None, sequences=(1,), **fields):
    """Returns a well-formed message, but for what is asked for.

    Args:
      tensors: Of each unroll.
      sequences: The unrolls'.
      **fields: Of the request.
    """
    if tensors is None:
      tensors = self.unroll
    unrolls = [
      service_pb2.Unroll(sequence=sequence, size=len(tensors))
      for sequence in sequences
    ]
    request = service_pb2.ExchangeRequest(
      **{
        'incarnation': 'a',
        'signature': self.pool._signature,
        'unrolls': unrolls,
        **fields,
      }
    )
    return framing.pack(request, [tensors] * len(unrolls))

  def is_well(self):
    """Whether an actor is served as always."""
    self._well += 1
    before = self.pool.received
    message = self.message(incarnation='well', sequences=[self._well])
    reply, parameters = framing.unpack(
      service_pb2.ExchangeReply, self.answer(self.begin(message))
    )
    totals = self.pool.totals()
    return (
      reply.version == 5
      and len(parameters) > 0
      and self.pool.received > before  # Others may still be under way.
      and np.isfinite(totals).all()
      and min(totals) >= 0
    )


@pytest.fixture(scope='module')
def running(make_pool):
  service = _Service(make_pool(batch_size=2))
  yield service
  service.close()


@pytest.fixture
def service(running):
  """The service; asserts that what a test does leaves nothing behind."""
  process = psutil.Process()
  for _ in range(20):  # What is made at first use.
    assert running.is_well()
  before = process.memory_info().rss
  yield running
  assert running.is_well()
  assert process.memory_info().rss - before < _MOST_GROWTH
  assert (
    len(running.pool._server._server._state.thread_pool._threads)
    < _MOST_THREADS
  )


@pytest.fixture(
  params=[50, pytest.param(1000, marks=pytest.mark.slow)],
  ids=['few', 'many'],
)
def given(request):
  """Runs a function with examples, the same ones each time where few."""

  def given(**strategies):
    settings = hypothesis.settings(
      max_examples=request.param,
      deadline=None,
      derandomize=request.param < 100,
      database=None,
      suppress_health_check=list(hypothesis.HealthCheck),
      print_blob=True,
    )
    return lambda function: settings(hypothesis.given(**strategies)(function))()

  return given


def _messages(service):
  tensors = st.just(service.unroll) | st.binary(max_size=2000)
  size = st.just(len(service.unroll)) | st.integers(0, 2000) | _INT64
  requests = st.builds(
    service_pb2.ExchangeRequest,
    task=_INT32,
    incarnation=st.text(),
    signature=st.just(service.pool._signature) | st.text(),
    unrolls=st.lists(
      st.builds(
        service_pb2.Unroll, sequence=_INT64, size=size, compressed=st.booleans()
      ),
      max_size=3,
    ),
    totals=_TOTALS,
    learner=st.text(),
    version=_INT64,
  )
  return st.builds(framing.pack, requests, st.lists(tensors, max_size=3))


@st.composite
def _damaged(draw, data):
  data = bytearray(data)
  for _ in range(draw(st.integers(1, 5))):
    begin = draw(st.integers(0, len(data)))
    end = begin + draw(st.integers(0, 8) | st.integers(0, len(data)))
    data[begin:end] = draw(st.binary(max_size=8))
  return bytes(data)


def test_any_exchange(service, given):
  @given(message=_messages(service))
  def check(message):
    service.answer(service.begin(message))
    assert service.is_well()


def test_any_join(service, given):
  requests = st.builds(
    service_pb2.JoinRequest, task=_INT32, signature=st.text()
  )

  @given(message=requests.map(framing.pack))
  def check(message):
    reply, _ = framing.unpack(
      service_pb2.JoinReply, service.answer(service.begin(message, 'Join'))
    )
    assert reply.refusal
    assert service.is_well()


@pytest.mark.parametrize('method', ['Join', 'Exchange'])
def test_any_bytes(service, given, method):
  @given(message=st.binary(max_size=5000))
  def check(message):
    service.answer(service.begin(message, method))
    assert service.is_well()


def test_damaged_exchanges(service, given):
  @given(message=_damaged(service.message()))
  def check(message):
    service.answer(service.begin(message))
    assert service.is_well()


def test_damaged_unrolls(service, given):
  @given(tensors=_damaged(service.unroll), sequence=_INT64)
  def check(tensors, sequence):
    service.answer(service.begin(service.message(tensors, [sequence])))
    assert service.is_well()


def test_many_at_once_and_calls_that_are_given_up(service, given):
  messages = (
    _messages(service) | st.binary(max_size=500) | _damaged(service.message())
  )

  @given(messages=st.lists(st.tuples(messages, st.booleans()), max_size=16))
  def check(messages):
    calls = [
      (service.begin(message), is_given_up) for message, is_given_up in messages
    ]
    for call, is_given_up in calls:
      if is_given_up:
        call.cancel()
      else:
        service.answer(call)
    assert service.is_well()


def test_many_times_what_is_no_message(service):
  for _ in range(100):
    for call in [service.begin(b'\xff') for _ in range(60)]:
      assert service.answer(call) is None


def test_many_unrolls_in_a_message(service):
  count = remote_pool.MAXIMUM_UNROLLS
  before = service.pool.received
  for sequence in (1, 2**63 - 1, 1):  # The newest is kept, the others known.
    message = service.message(None, [sequence] * count, incarnation='many')
    assert service.answer(service.begin(message))
  assert service.pool.received == before + 2
  message = service.message(None, [2] * (count + 1), incarnation='many')
  assert service.answer(service.begin(message)) is None


def test_empty_unrolls_without_end(service):
  # Protocol buffers one after another are one.
  one = service_pb2.ExchangeRequest(unrolls=[service_pb2.Unroll()])
  head = one.SerializeToString() * 1_000_000
  message = len(head).to_bytes(4, 'little') + head
  assert service.answer(service.begin(message)) is None


def test_a_head_that_ends_later_than_its_message(service):
  message = service.message()
  for length in (len(message) - 3, 1 << 16, 2**32 - 1):
    wrong = length.to_bytes(4, 'little') + message[4:]
    assert service.answer(service.begin(wrong)) is None


def test_many_incarnations_with_long_names(service):
  for index in range(100):
    for times in (100, 10_000, 500_000):
      message = service.message(None, (), incarnation=f'{index}' * times)
      assert service.answer(service.begin(message)) is None


def test_many_incarnations(service, monkeypatch):
  most = len(service.pool._incarnations) + 50
  monkeypatch.setattr(remote_pool, '_REMEMBERED', most)
  for index in range(100):
    message = service.message(None, (), incarnation=str(index))
    assert service.answer(service.begin(message))
  assert len(service.pool._incarnations) == most


def test_many_tasks(service, monkeypatch):
  most = len(service.pool._totals) + 50
  monkeypatch.setattr(server, 'MAXIMUM_ACTORS', most)
  for task in range(100):
    message = service.message(task=-task, incarnation=f'of {task}')
    assert service.answer(service.begin(message))
  assert len(service.pool._totals) == most


@pytest.mark.parametrize(
  ('compression', 'code'),
  [
    (grpc.Compression.NoCompression, grpc.StatusCode.RESOURCE_EXHAUSTED),
    # Older gRPC expands a message whole before it measures it.
    (grpc.Compression.Gzip, grpc.StatusCode.UNIMPLEMENTED),
    (grpc.Compression.Deflate, grpc.StatusCode.UNIMPLEMENTED),
  ],
)
def test_a_message_that_is_too_large_or_would_be(service, compression, code):
  message = bytes(100_000_000)
  call = service.begin(message, compression=compression)
  assert call.exception().code() == code
