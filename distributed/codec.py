"""Tensors as bytes, by specs that both sides know.

A tensor is what NumPy has in memory; strings have their length before them.
"""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import zstandard

_LENGTH = np.dtype('<u2')
_MOST_LETTERS = np.iinfo(_LENGTH).max


def signature(*nests) -> str:
  """Returns a digest of the order, shapes and dtypes of specs in nests."""
  flat = [
    [[list(spec.shape), spec.dtype.name] for spec in tf.nest.flatten(nest)]
    for nest in nests
  ]
  return hashlib.sha256(json.dumps(flat).encode()).hexdigest()


def encode(tensors: Sequence) -> list:
  """Returns tensors as buffers of bytes, most of which share their memory.

  Raises:
    ValueError: A string is longer than 65,535 bytes.
  """
  buffers = []
  for tensor in map(np.asarray, tensors):
    if tensor.dtype != object:
      buffers.append(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8))
      continue
    for text in tensor.flat:
      if len(text) > _MOST_LETTERS:
        raise ValueError(f'A string of {len(text)} bytes is too long to send.')
      buffers += [_LENGTH.type(len(text)).tobytes(), text]
  return buffers


def size(buffers: Sequence) -> int:
  """Returns the bytes in buffers."""
  return sum(map(len, buffers))


def compress(data) -> bytes:
  """Returns bytes that `decompress` makes `data` again."""
  return zstandard.compress(data, level=1)


def decompress(data, maximum_bytes: int) -> bytes:
  """Returns what was compressed.

  Raises:
    ValueError: It is damaged, or more than so many bytes.
  """
  try:
    # Checked first: so much memory is taken.
    if not 0 <= zstandard.frame_content_size(data) <= maximum_bytes:
      raise ValueError('What is compressed is of the wrong size.')
    return zstandard.decompress(data)
  except zstandard.ZstdError as error:
    raise ValueError(f'It cannot be decompressed: {error}.') from error


class Decoder:
  """Makes bytes tensors of specs again. Thread-safe.

  Attributes:
    maximum_bytes: That such tensors have.
  """

  def __init__(self, specs: Sequence[tf.TensorSpec]):
    # Taken apart once: specs are slow to ask.
    self._fields = [
      (
        np.dtype(spec.dtype.as_numpy_dtype),  # Strings are objects.
        spec.shape.num_elements(),
        tuple(spec.shape),
      )
      for spec in specs
    ]
    self.maximum_bytes = sum(
      count
      * (
        _LENGTH.itemsize + _MOST_LETTERS if dtype.hasobject else dtype.itemsize
      )
      for dtype, count, _ in self._fields
    )

  def __call__(self, data) -> list[np.ndarray]:
    """Returns the tensors, which may share the memory of `data`.

    Raises:
      ValueError: These are no tensors of these specs.
    """
    tensors, offset = [], 0
    for dtype, count, shape in self._fields:
      if dtype.hasobject:
        texts, offset = _strings(data, offset, count)
        tensor = np.array(texts, object)
      else:
        tensor = np.frombuffer(data, dtype, count, offset)
        offset += tensor.nbytes
        if dtype.kind == 'b' and tensor.view(np.uint8).max(initial=0) > 1:
          raise ValueError('A truth value is neither 0 nor 1.')
      tensors.append(tensor.reshape(shape))
    if offset != len(data):
      raise ValueError(f'{len(data)} bytes, but {offset} are expected.')
    return tensors


def _strings(data, offset, count):
  texts = []
  for _ in range(count):
    start = offset + _LENGTH.itemsize
    offset = start + int.from_bytes(data[offset:start], 'little')
    if offset > len(data):
      raise ValueError(f'{len(data)} bytes are too few.')
    texts.append(bytes(data[start:offset]))
  return texts, offset
