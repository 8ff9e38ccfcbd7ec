"""Messages on the wire: a protocol buffer's length, itself, and raw bytes.

Bytes inside of a protocol buffer would be copied twice more on either side.
"""

import struct
from collections.abc import Iterable, Sequence

from google.protobuf import message

_LENGTH = struct.Struct('<I')
LONGEST_HEAD = 1 << 16  # A parser takes far more memory than its input.


def pack(head: message.Message, bodies: Iterable = ()) -> bytes:
  """Returns a message.

  Args:
    head: Tells how long the bodies are, where they are several.
    bodies: Buffers of bytes.
  """
  data = head.SerializeToString()
  return b''.join([_LENGTH.pack(len(data)), data, *bodies])


def unpack(
  kind: type[message.Message], data: bytes
) -> tuple[message.Message, memoryview]:
  """Returns the protocol buffer of a message, and the bytes after it.

  Raises:
    ValueError: It is no such message.
  """
  if len(data) < _LENGTH.size:
    raise ValueError('The message is too short.')
  (length,) = _LENGTH.unpack_from(data)
  end = _LENGTH.size + length
  if length > LONGEST_HEAD or end > len(data):
    raise ValueError('The message is cut off, or its head is too long.')
  try:
    return kind.FromString(data[_LENGTH.size : end]), memoryview(data)[end:]
  except message.DecodeError as error:
    raise ValueError('It is no message.') from error


def split(body: memoryview, sizes: Sequence[int]) -> list[memoryview]:
  """Returns the bodies of so many bytes.

  Raises:
    ValueError: They are not as many altogether, or one is negative.
  """
  if min(sizes, default=0) < 0 or sum(sizes) != len(body):
    raise ValueError(f'{len(body)} bytes, but {sum(sizes)} are told.')
  bodies, offset = [], 0
  for size in sizes:
    bodies.append(body[offset : offset + size])
    offset += size
  return bodies
