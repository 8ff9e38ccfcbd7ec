import numpy as np
import pytest
import tensorflow as tf
import zstandard

from impala.distributed import codec

_SPECS = [
  tf.TensorSpec([], tf.int32),
  tf.TensorSpec([2, 3], tf.float32),
  tf.TensorSpec([4], tf.bool),
  tf.TensorSpec([3], tf.string),
  tf.TensorSpec([2, 2, 1], tf.uint8),
  tf.TensorSpec([], tf.int64),
]


def _tensors():
  return [
    np.array(7, np.int32),
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.array([True, False, False, True]),
    np.array([b'', b'collect the ball', b'\xff\x00'], object),
    np.arange(4, dtype=np.uint8).reshape(2, 2, 1),
    np.array(-1, np.int64),
  ]


def _encode(tensors):
  return b''.join(codec.encode(tensors))


def test_there_and_back():
  data = _encode(_tensors())
  assert codec.size(codec.encode(_tensors())) == len(data)
  decode = codec.Decoder(_SPECS)
  assert len(data) <= decode.maximum_bytes
  for tensor, again in zip(_tensors(), decode(memoryview(data)), strict=True):
    assert (tensor.dtype, tensor.shape) == (again.dtype, again.shape)
    np.testing.assert_array_equal(tensor, again)


def test_memory_in_any_order():
  tensor = np.arange(6, dtype=np.float32).reshape(3, 2).T
  (again,) = codec.Decoder(_SPECS[1:2])(_encode([tensor]))
  np.testing.assert_array_equal(again, tensor)


@pytest.mark.parametrize('cut', [1, 5, 13, 20, 30, 1000])
def test_too_few_bytes(cut):
  with pytest.raises(ValueError, match=r'few|buffer|expected|offset'):
    codec.Decoder(_SPECS)(_encode(_tensors())[:-cut])


def test_too_many_bytes():
  with pytest.raises(ValueError, match='are expected'):
    codec.Decoder(_SPECS)(_encode(_tensors()) + b'x')


def test_no_truth_values():
  data = _encode([np.array([0, 1, 2, 1], np.uint8)])
  with pytest.raises(ValueError, match='truth'):
    codec.Decoder(_SPECS[2:3])(data)


def test_a_string_that_is_too_long():
  _encode([np.array([b'x' * 65_535], object)])
  with pytest.raises(ValueError, match='too long'):
    _encode([np.array([b'x' * 65_536], object)])


def test_any_bytes_are_tensors_or_an_error():
  random = np.random.default_rng(0)
  data = _encode(_tensors())
  for _ in range(2000):
    damaged = bytearray(data)
    for _ in range(random.integers(1, 4)):
      damaged[random.integers(len(damaged))] = random.integers(256)
    start, end = sorted(random.integers(len(damaged) + 1, size=2))
    for some in (damaged, damaged[start:end]):
      try:
        tensors = codec.Decoder(_SPECS)(bytes(some))
      except ValueError:
        continue
      assert [t.shape for t in tensors] == [s.shape for s in _SPECS]


def test_signatures_tell_specs_apart():
  signatures = {
    codec.signature(_SPECS),
    codec.signature(_SPECS[1:]),
    codec.signature(_SPECS[:1], _SPECS[1:]),
    codec.signature([tf.TensorSpec([], tf.int64), *_SPECS[1:]]),
    codec.signature([tf.TensorSpec([1], tf.int32), *_SPECS[1:]]),
  }
  assert len(signatures) == 5
  assert codec.signature(tuple(_SPECS)) == codec.signature(_SPECS)


def test_compressed_and_back():
  data = _encode(_tensors()) * 50
  compressed = codec.compress(data)
  assert len(compressed) < len(data) / 5
  assert codec.decompress(compressed, len(data)) == data


def test_more_than_is_expected_is_not_decompressed():
  bomb = codec.compress(bytes(1 << 24))
  assert len(bomb) < 10_000
  with pytest.raises(ValueError, match='size'):
    codec.decompress(bomb, (1 << 24) - 1)


def test_what_is_damaged_is_not_decompressed():
  data = codec.compress(_encode(_tensors()))
  streamed = zstandard.ZstdCompressor(write_content_size=False).compress(b'x')
  for wrong in (b'', data[:-3], b'x' + data, streamed):
    with pytest.raises(ValueError, match=r'decompressed|size'):
      codec.decompress(wrong, 1000)
