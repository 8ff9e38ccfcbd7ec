"""Memory of large messages is kept: new pages cost more than the copies."""

import ctypes

# Of glibc's mallopt(3). By default, each block of this size goes back to the
# kernel when it is freed, and comes back as pages to be cleared.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_BLOCK = 32 << 20  # The most that glibc takes.
_KEPT = 256 << 20


def keep_large_blocks() -> None:
  """Lets this process reuse large blocks; without effect outside glibc."""
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is not None:
    mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
    mallopt(_TRIM_THRESHOLD, _KEPT)
