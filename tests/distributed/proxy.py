"""A network between two processes that can be made to fail."""

import contextlib
import socket
import struct
import threading

_RESET = struct.pack('ii', 1, 0)  # SO_LINGER: no goodbye.


class Proxy:
  """Forwards TCP connections to a port of this machine. For one thread.

  Attributes:
    port: Where it listens.
  """

  def __init__(self, target: int):
    self._target = target
    self._flowing = threading.Event()
    self._flowing.set()
    self._lock = threading.Lock()
    self._open = set()  # Guarded by the lock.
    self._listener = None
    self.port = 0
    self.accept()

  def accept(self) -> None:
    """Takes connections, also after `refuse`."""
    self._listener = socket.create_server(('localhost', self.port))
    self.port = self._listener.getsockname()[1]
    threading.Thread(
      target=self._accept, args=(self._listener,), daemon=True
    ).start()

  def refuse(self) -> None:
    """Refuses connections, and ends those that there are."""
    # To close it alone would not end the wait for a connection.
    self._listener.shutdown(socket.SHUT_RDWR)
    self._listener.close()
    self.cut()

  def cut(self) -> None:
    """Ends all connections, in the middle of whatever they carry."""
    with self._lock:
      for end in self._open:
        with contextlib.suppress(OSError):
          end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
          end.shutdown(socket.SHUT_RDWR)

  def freeze(self) -> None:
    """Lets nothing through, and says nothing of it."""
    self._flowing.clear()

  def thaw(self) -> None:
    """Lets through what has waited, and what follows."""
    self._flowing.set()

  def _accept(self, listener):
    with contextlib.suppress(OSError):
      while True:
        near, _ = listener.accept()
        try:
          far = socket.create_connection(('localhost', self._target))
        except OSError:
          near.close()
          continue
        with self._lock:
          self._open |= {near, far}
        for ends in ((near, far), (far, near)):
          threading.Thread(target=self._pump, args=ends, daemon=True).start()

  def _pump(self, source, sink):
    with contextlib.suppress(OSError):
      while data := source.recv(1 << 16):
        self._flowing.wait()
        sink.sendall(data)
    with contextlib.suppress(OSError):
      sink.shutdown(socket.SHUT_RDWR)
    with self._lock:
      self._open.discard(source)
    source.close()
