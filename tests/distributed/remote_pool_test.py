import contextlib
import threading
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf

from impala import actor, actor_pool
from impala.distributed import (
  client,
  codec,
  framing,
  remote_pool,
  server,
  service_pb2,
)
from impala.environments import protocol

pytestmark = pytest.mark.usefixtures('time_limit')

_TOTALS = actor_pool.Totals(2, 4, 10, 0.1, 0.2, 0.3, 1)


@pytest.fixture
def pool(make_pool):
  pool = make_pool()
  pool.start()
  yield pool
  pool.close()


@pytest.fixture
def connect(pool):
  """Makes clients of the pool."""
  with contextlib.ExitStack() as cleanup:

    def connect(task=0, signature=None, **options):
      made = client.LearnerClient(
        pool.address, task, signature or pool._signature, **options
      )
      cleanup.callback(made.close)
      cleanup.callback(made.stop)
      return made

    yield connect


def _unroll(pool, number=0, **changes):
  """Returns an encoded trajectory of the actor `number`."""
  trajectory = tf.nest.map_structure(
    lambda spec: np.zeros(
      spec.shape,
      object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype,
    ),
    pool.specs,
  )
  trajectory = trajectory._replace(actor=np.array(number, np.int32))
  for name, value in changes.items():
    if name == 'version':
      trajectory = trajectory._replace(version=np.array(value, np.int64))
    else:
      tensor = getattr(trajectory.agent_outputs, name)
      tensor.flat[0] = value
  flat = tf.nest.flatten(trajectory)
  for tensor in flat:
    if tensor.dtype == object:
      tensor[...] = b''
  return codec.encode(flat)


def _take(pool, count):
  """Returns trajectories with a batch dimension of 1."""
  return [pool.take_batch() for _ in range(count)]


def _later(function, *arguments):
  results = []
  thread = threading.Thread(
    target=lambda: results.append(function(*arguments)), daemon=True
  )
  thread.start()
  return thread, results


def test_unrolls_come_out_in_order(pool, connect):
  learner = connect()
  learner.join()
  unrolls = [_unroll(pool, number) for number in range(5)]
  thread, _ = _later(learner.exchange, unrolls, _TOTALS)
  assert [int(t.actor[0]) for t in _take(pool, 5)] == list(range(5))
  thread.join()
  assert pool.received == 5
  assert pool.totals() == _TOTALS


def test_compressed_unrolls(pool, connect):
  unrolls = [_unroll(pool, number) for number in range(2)]
  thread, _ = _later(connect(compress=True).exchange, unrolls, _TOTALS)
  assert [int(t.actor[0]) for t in _take(pool, 2)] == [0, 1]
  thread.join()


def test_totals_are_summed_over_tasks(pool, connect):
  for task in (0, 1, 1):
    thread, _ = _later(connect(task).exchange, [_unroll(pool)], _TOTALS)
    _take(pool, 1)
    thread.join()
  assert pool.totals() == tuple(pytest.approx(2 * n) for n in _TOTALS)


def test_parameters_only_where_they_are_newer(pool, connect, agent):
  learner = connect()
  version, parameters = learner.exchange([], _TOTALS)
  assert version == 5
  specs = remote_pool.variable_specs(agent.trainable_variables)
  values = codec.Decoder(specs)(parameters)
  for value, variable in zip(values, agent.trainable_variables, strict=True):
    np.testing.assert_array_equal(value, variable.numpy())
  assert learner.exchange([], _TOTALS) == (5, b'')
  pool._updates.assign_add(1)
  version, parameters = learner.exchange([], _TOTALS)
  assert version == 6 and parameters


def test_a_slow_learner_blocks_actors(pool, connect):
  threads = [
    _later(connect(task).exchange, [_unroll(pool)] * 3, _TOTALS)[0]
    for task in range(3)
  ]
  time.sleep(0.5)
  assert all(thread.is_alive() for thread in threads)
  assert pool.received <= 1
  _take(pool, 9)
  for thread in threads:
    thread.join()
  assert pool.received == 9


def _request(pool, count, incarnation='a'):
  """Returns a message with the unrolls 1 to `count`, of actors so numbered."""
  request = service_pb2.ExchangeRequest(
    incarnation=incarnation, signature=pool._signature
  )
  bodies = []
  for sequence in range(1, count + 1):
    bodies += _unroll(pool, sequence)
    size = codec.size(_unroll(pool, sequence))
    request.unrolls.add(sequence=sequence, size=size)
  return framing.pack(request, bodies)


def test_what_is_sent_twice_is_taken_once(pool):
  with grpc.insecure_channel(pool.address) as channel:
    call = _exchange(channel)
    first = call.future(_request(pool, 2))
    time.sleep(0.3)
    first.cancel()  # The answer is lost, while the learner has no room.
    second = call.future(_request(pool, 2))
    assert [int(t.actor[0]) for t in _take(pool, 2)] == [1, 2]
    second.result(timeout=30)
    third = call.future(_request(pool, 3))
    assert [int(t.actor[0]) for t in _take(pool, 1)] == [3]
    third.result(timeout=30)
    # Another process of the same task begins at 1.
    fourth = call.future(_request(pool, 3, incarnation='b'))
    assert [int(t.actor[0]) for t in _take(pool, 3)] == [1, 2, 3]
    fourth.result(timeout=30)
  assert pool.received == 6


def _exchange(channel):
  return channel.unary_unary(f'/{server.SERVICE}/Exchange')


@pytest.mark.parametrize(
  ('change', 'reason'),
  [
    ({'action': 3}, 'action'),
    ({'action': -1}, 'action'),
    ({'baseline': np.nan}, 'finite'),
    ({'policy_logits': np.inf}, 'finite'),
    ({'number': -1}, 'actor'),
  ],
)
def test_what_would_do_harm_is_refused(pool, connect, change, reason):
  with pytest.raises(protocol.UserError, match=reason):
    connect().exchange([_unroll(pool, **change)], _TOTALS)
  assert pool.received == 0
  thread, _ = _later(connect().exchange, [_unroll(pool)], _TOTALS)
  _take(pool, 1)
  thread.join()


def test_versions_of_a_learner_that_was_lost(pool, connect):
  unrolls = [_unroll(pool, version=v) for v in (3, 99, -7)]
  thread, _ = _later(connect().exchange, unrolls, _TOTALS)
  assert [int(t.version[0]) for t in _take(pool, 3)] == [3, 5, 0]
  thread.join()


def test_another_agent_is_refused(pool, connect):
  other = connect(signature='another')
  with pytest.raises(protocol.UserError, match='--network'):
    other.join()
  with pytest.raises(protocol.UserError, match='another agent'):
    other.exchange([_unroll(pool)], _TOTALS)


def test_a_message_that_is_too_large_is_refused(pool):
  request = service_pb2.ExchangeRequest(signature=pool._signature)
  request.unrolls.add(sequence=1, size=200_000_000)
  message = framing.pack(request, [bytes(200_000_000)])
  with grpc.insecure_channel(
    pool.address, [('grpc.max_send_message_length', -1)]
  ) as channel:
    with pytest.raises(grpc.RpcError) as caught:
      _exchange(channel)(message, timeout=60)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_malformed_messages_do_no_harm(pool, connect):
  random = np.random.default_rng(0)
  data = _request(pool, 1)
  stop = threading.Event()

  def take():
    while not stop.is_set():
      if len(pool._inbox):
        pool.take_batch()
      else:
        time.sleep(0.001)

  taker = threading.Thread(target=take)
  taker.start()
  try:
    with grpc.insecure_channel(pool.address) as channel:
      call = _exchange(channel)
      for index in range(300):
        damaged = bytearray(data)
        for _ in range(random.integers(1, 6)):
          damaged[random.integers(len(damaged))] = random.integers(256)
        if index % 3 == 0:
          damaged = damaged[: random.integers(len(damaged))]
        with contextlib.suppress(grpc.RpcError):
          call(bytes(damaged), timeout=30)
  finally:
    stop.set()
    taker.join()
  thread, _ = _later(connect().exchange, [_unroll(pool, 7)], _TOTALS)
  while int(_take(pool, 1)[0].actor[0]) != 7:
    pass
  thread.join(30)
  assert not thread.is_alive()


def test_the_end_of_the_learner_reaches_actors_that_wait(pool, connect):
  learner = connect()
  learner.exchange([], _TOTALS)
  errors = []

  def send():
    try:
      learner.exchange([_unroll(pool)] * 5, _TOTALS)
    except client.Stopped as error:
      errors.append(error)

  thread = threading.Thread(target=send)
  thread.start()
  time.sleep(0.3)
  pool.close()
  time.sleep(0.3)
  assert thread.is_alive()  # It tries on, until it is told not to.
  learner.stop()
  thread.join(10)
  assert errors and not thread.is_alive()


def test_a_learner_that_comes_back(make_pool, pool):
  def start(address):
    learner = make_pool(updates=9, address=address)
    learner.start()
    return learner

  first = start('localhost:0')
  actor_side = client.LearnerClient(first.address, 0, first._signature)
  try:
    assert actor_side.exchange([], _TOTALS)[0] == 9
    first.close()
    thread, results = _later(actor_side.exchange, [_unroll(pool, 4)], _TOTALS)
    time.sleep(1.0)
    second = start(first.address)
    try:
      assert int(_take(second, 1)[0].actor[0]) == 4
      thread.join(30)
      # The same count, but another learner: its parameters may differ.
      ((version, parameters),) = results
      assert version == 9 and parameters
    finally:
      second.close()
  finally:
    actor_side.stop()
    actor_side.close()


def test_what_is_no_learner():
  other = server.Server({'Join': lambda *_: b'no'}, 1000, 'localhost:0')
  other.start()
  actor_side = client.LearnerClient(other.address, 0, 'a')
  try:
    with pytest.raises(protocol.UserError, match='answers as no learner'):
      actor_side.join()
  finally:
    actor_side.close()
    other.close()


def test_unrolls_that_fit_no_message(agent):
  def check(unroll_length):
    remote_pool.check_size(
      actor.trajectory_specs(
        agent, protocol.Spec((4, 4), 3, 'uint8'), unroll_length
      )
    )

  check(20_000)
  with pytest.raises(protocol.UserError, match=r'2\.6 GB.*--unroll_length'):
    check(40_000)


def test_an_address_that_is_taken(make_pool, pool):
  with pytest.raises(OSError, match='cannot be listened at'):
    make_pool(address=pool.address)
