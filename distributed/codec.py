"""Tensors as bytes, by specs that both sides know.

A tensor is what NumPy has in memory; strings have their length before them.
"""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

_LENGTH = np.dtype('<u2')
_MOST_LETTERS = np.iinfo(_LENGTH).max


def signature(*nests) -> str:
  """Returns a digest of the order, shapes and dtypes of specs in nests."""
  flat = [
    [[list(spec.shape), spec.dtype.name] for spec in tf.nest.flatten(nest)]
    for nest in nests
  ]
  return hashlib.sha256(json.dumps(flat).encode()).hexdigest()


def maximum_bytes(specs: Sequence[tf.TensorSpec]) -> int:
  """Returns how many bytes tensors of these specs have at most."""
  return sum(
    spec.shape.num_elements()
    * (
      _LENGTH.itemsize + _MOST_LETTERS
      if spec.dtype == tf.string
      else spec.dtype.size
    )
    for spec in specs
  )


def encode(tensors: Sequence[np.ndarray]) -> bytes:
  """Returns tensors as bytes.

  Raises:
    ValueError: A string is longer than 65,535 bytes.
  """
  parts = []
  for tensor in map(np.asarray, tensors):
    if tensor.dtype != object:
      parts.append(np.ascontiguousarray(tensor).data)
      continue
    for text in tensor.flat:
      if len(text) > _MOST_LETTERS:
        raise ValueError(f'A string of {len(text)} bytes is too long to send.')
      parts += [_LENGTH.type(len(text)).tobytes(), text]
  return b''.join(parts)


def decode(data: bytes, specs: Sequence[tf.TensorSpec]) -> list[np.ndarray]:
  """Returns the tensors, which may share the memory of `data`.

  Raises:
    ValueError: These are no tensors of these specs.
  """
  tensors, offset = [], 0
  for spec in specs:
    count = spec.shape.num_elements()
    if spec.dtype == tf.string:
      texts, offset = _strings(data, offset, count)
      tensor = np.array(texts, object)
    else:
      dtype = np.dtype(spec.dtype.as_numpy_dtype)
      tensor = np.frombuffer(data, dtype, count, offset)
      offset += count * dtype.itemsize
      if dtype.kind == 'b' and tensor.view(np.uint8).max(initial=0) > 1:
        raise ValueError('A truth value is neither 0 nor 1.')
    tensors.append(tensor.reshape(spec.shape))
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
    texts.append(data[start:offset])
  return texts, offset
