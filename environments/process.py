"""The main process's side of environment processes."""

import contextlib
import dataclasses
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time

from impala.environments import launcher, protocol, registry

_MESSAGE_BYTES = 1 << 16
_MAX_FILES = 1 << 16


class EnvironmentFailure(Exception):
  """An environment process that did not start; the message tells why."""


class EnvironmentProcess:
  """A process that is starting or serving an environment.

  Attributes:
    level: The level's name.
    options: What the environment was made with.
    spec: Of the environment; None until `wait_ready` has returned.
    pid: Of the process, likewise.
    files: Descriptors of shared memory, request and reply eventfd and pidfd,
      likewise.
  """

  def __init__(self, level, options, lifeline):
    self.level = level
    self.options = options
    self.spec = None
    self.pid = None
    self.files = ()
    self._lifeline = lifeline
    self._lock = threading.Lock()  # For closing.

  def wait_ready(self, timeout: float) -> protocol.Spec:
    """Waits until the environment is made.

    Args:
      timeout: In seconds.

    Returns:
      The environment's spec.

    Raises:
      UserError: What is asked for does not exist or is not installed.
      EnvironmentFailure: It raised, died, was closed, or took longer than
        `timeout`.
    """
    deadline = time.monotonic() + timeout
    while self.spec is None:
      message = self._receive(deadline - time.monotonic())
      if message is None:
        raise EnvironmentFailure(
          f'{self.level} did not start within {timeout:.0f} s.'
        )
      if 'user_error' in message:
        raise protocol.UserError(message['user_error'])
      if 'error' in message:
        raise EnvironmentFailure(f'{self.level} failed: {message["error"]}')
      if 'spec' in message:
        if len(self.files) < 4:
          raise protocol.UserError(
            'Too many files are open: raise the limit (ulimit -n), or run '
            'fewer environments.'
          )
        spec = message['spec']
        for name in ('frame_shape', 'action_names'):
          spec[name] = tuple(spec[name])
        self.spec = protocol.Spec(**spec)
    return self.spec

  def close(self) -> None:
    """Ends the process gently, and `wait_ready` too; see `close_all`."""
    # Not close(), which would neither wake a thread that waits for the socket
    # nor be seen by the process until then.
    with self._lock, contextlib.suppress(OSError):
      self._lifeline.shutdown(socket.SHUT_RDWR)

  def _receive(self, seconds):
    """Returns the process's next message; None if there is none in time."""
    if not _wait_readable(self._lifeline, seconds):
      return None
    data, files, _, _ = socket.recv_fds(self._lifeline, _MESSAGE_BYTES, 3)
    for file in files:
      os.set_inheritable(file, False)
    # The pidfd, which comes first, is kept last.
    self.files = (*files, *self.files)
    message = json.loads(data) if data else {'error': 'its process died.'}
    self.pid = message.get('pid', self.pid)
    return message

  def _wait_and_release(self, deadline):
    if self._lifeline.fileno() < 0:
      return  # For the second time.
    if not self.files:
      self._receive(0)  # What it has not said, it can't say any more.
    if self.files:
      left = deadline - time.monotonic()
      if not _wait_readable(self.files[-1], left):
        with contextlib.suppress(ProcessLookupError):
          os.killpg(self.pid, signal.SIGKILL)
    with self._lock:
      self._lifeline.close()
    for file in self.files:
      os.close(file)
    self.files = ()


def _wait_readable(file, seconds):
  poll = select.poll()  # select() refuses descriptors above 1023.
  poll.register(file, select.POLLIN)
  return bool(poll.poll(max(0.0, seconds) * 1000))


def close_all(processes, grace_seconds: float = launcher.GRACE_SECONDS):
  """Ends environment processes, and kills those that take too long."""
  for process in processes:
    process.close()
  deadline = time.monotonic() + grace_seconds
  for process in processes:
    process._wait_and_release(deadline)


class Launcher:
  """Starts environment processes through the launcher. Thread-safe."""

  def __init__(self):
    self._lock = threading.Lock()
    self._process = None
    self._control = None
    # The usual limit is 1024, and each environment takes nine.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = max(soft, min(hard, _MAX_FILES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

  def start(self, level: str, options: protocol.Options) -> EnvironmentProcess:
    """Starts an environment process and returns at once."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    request = json.dumps(
      {
        'level': level,
        'options': dataclasses.asdict(options),
        'preload': registry.preload_modules(level),
      }
    ).encode()
    with self._lock, theirs:
      if self._process is None or self._process.poll() is not None:
        self._launch()
      try:
        socket.send_fds(self._control, [request], [theirs.fileno()])
      except ConnectionError:  # It was killed; a new one is as good.
        self._launch()
        socket.send_fds(self._control, [request], [theirs.fileno()])
    return EnvironmentProcess(level, options, ours)

  def _launch(self):
    self._end()
    self._control, theirs = socket.socketpair(
      socket.AF_UNIX, socket.SOCK_SEQPACKET
    )
    # One thread a process: they are many, and forked from one another.
    threads = dict.fromkeys(
      ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'), '1'
    )
    with theirs:
      self._process = subprocess.Popen(
        [sys.executable, '-m', launcher.__name__, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        env={**os.environ, **threads},
        stdin=subprocess.DEVNULL,
        stdout=sys.__stderr__.fileno(),  # Engines print; stdout is ours.
        start_new_session=True,  # Ctrl-C is for the main process.
      )

  def close(self) -> None:
    """Ends the launcher and every process it started."""
    with self._lock:
      self._end()

  def _end(self):
    if self._process is None:
      return
    self._control.close()
    try:
      self._process.wait(timeout=launcher.GRACE_SECONDS + 2)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    self._process = None
