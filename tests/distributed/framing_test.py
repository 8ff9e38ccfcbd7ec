import pytest

from impala.distributed import framing, service_pb2

_HEAD = service_pb2.JoinRequest(task=7, signature='abc')


def test_there_and_back():
  data = framing.pack(_HEAD, [b'one', b'', memoryview(b'two')])
  head, body = framing.unpack(service_pb2.JoinRequest, data)
  assert head == _HEAD
  assert [bytes(b) for b in framing.split(body, [3, 0, 3])] == [
    b'one',
    b'',
    b'two',
  ]


def test_nothing_after_the_head():
  head, body = framing.unpack(service_pb2.JoinRequest, framing.pack(_HEAD))
  assert head == _HEAD and not body
  assert framing.split(body, []) == []


@pytest.mark.parametrize(
  'data',
  [
    b'',
    b'\x00\x00\x00',
    b'\x01\x00\x00\x00',
    b'\xff\xff\xff\xff' + bytes(100),
    b'\x01\x00\x00\x00\xff',
    framing.pack(_HEAD)[:-1],
    framing.pack(service_pb2.JoinRequest(signature='x' * (1 << 16))),
  ],
)
def test_what_is_no_message(data):
  with pytest.raises(ValueError, match='message'):
    framing.unpack(service_pb2.JoinRequest, data)


@pytest.mark.parametrize('sizes', [[], [2], [4], [2, 2], [4, -1], [2**63 - 1]])
def test_sizes_that_are_not_those_of_the_bytes(sizes):
  with pytest.raises(ValueError, match='bytes'):
    framing.split(memoryview(b'123'), sizes)
