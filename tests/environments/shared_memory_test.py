import os
import pathlib
import re

import numpy as np
import pytest

from impala.environments import protocol, shared_memory

_SPEC = protocol.Spec(frame_shape=(2, 3, 1), num_actions=2)
_FRAME = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
_HEADER = pathlib.Path(__file__).parents[2] / 'environments' / 'channel.h'


def _text(memory):
  """The text, as it is in the memory."""
  size = int.from_bytes(os.pread(memory.file, 2, 22), 'little')
  return os.pread(memory.file, size, 24)


def test_layout_is_that_of_the_header():
  struct = re.search(r'struct SharedHeader {(.*?)};', _HEADER.read_text(), re.S)
  fields = re.findall(r'^ *(\w+) (\w+)(?:\[(\d+)\])?;', struct[1], re.M)
  assert ''.join(
    {'int32_t': 'i', 'float': 'f', 'uint8_t': 'B', 'uint16_t': 'H'}[kind]
    for kind, _, size in fields
    if not size
  ) == shared_memory._HEADER.format.removeprefix('<')
  assert fields[-1] == ('char', 'text', str(shared_memory._TEXT_BYTES))


def test_reply():
  memory = shared_memory.SharedMemory(_SPEC)
  observation = protocol.Observation(_FRAME, 'go')
  memory.write(observation, 1.5, 2.5, 3, done=True, over=False)
  header = shared_memory._HEADER.unpack(os.pread(memory.file, 24, 0))
  assert header == (0, 0, 1.5, 2.5, 3, 1, 0, 2)
  assert _text(memory) == b'go'
  assert os.pread(memory.file, 100, 4096) == _FRAME.tobytes()


def test_action():
  memory = shared_memory.SharedMemory(_SPEC)
  os.pwrite(memory.file, (7).to_bytes(4, 'little'), 0)
  assert memory.action() == 7


@pytest.mark.parametrize(
  'frame',
  [
    np.zeros((2, 3), np.uint8),
    np.zeros((1, 3, 1), np.uint8),  # Could be broadcast.
    np.zeros((2, 3, 3), np.uint8),
    np.zeros((2, 3, 1), np.float32),
  ],
)
def test_wrong_frame_is_told(frame):
  memory = shared_memory.SharedMemory(_SPEC)
  with pytest.raises(ValueError, match='its spec says uint8'):
    memory.write(protocol.Observation(frame))


# Characters of one to four bytes, and each of their cuts.
@pytest.mark.parametrize('character', ['a', 'é', '…', '\N{GRINNING FACE}'])
@pytest.mark.parametrize('offset', range(4))
def test_long_texts_are_cut_between_characters(character, offset):
  memory = shared_memory.SharedMemory(_SPEC)
  text = 'x' * offset + character * 5000 + 'y' * offset
  memory.write(protocol.Observation(_FRAME, text))
  written = _text(memory).decode()
  assert text.startswith(written)
  assert 4072 - 4 < len(written.encode()) <= 4072
  memory.write_failure(text)
  written = _text(memory).decode()
  assert text.endswith(written)
  assert 4072 - 4 < len(written.encode()) <= 4072
  assert os.fstat(memory.file).st_size == 4096 + 6


def test_texts_that_are_no_unicode():
  memory = shared_memory.SharedMemory(_SPEC)
  memory.write(protocol.Observation(_FRAME, 'a\udcffb'))
  assert _text(memory) == b'a?b'
  memory.write_failure('a\udcffb')
  assert _text(memory) == rb'a\udcffb'
