"""Environment processes that play one task each, and end together."""

import contextlib
import threading
from collections.abc import Callable

from impala.environments import process, protocol, step_op

_GRACE_SECONDS = 2.0


class Sessions:
  """Processes with a channel to each, at most one a thread. Thread-safe."""

  def __init__(
    self,
    spec: protocol.Spec,
    start_process: Callable[[str, list[int]], process.EnvironmentProcess],
    timeout: float,
  ):
    """Makes sessions that `open` starts.

    Args:
      spec: That every environment must have.
      start_process: Starts a level's environment, whose episodes have these
        seeds.
      timeout: Seconds in which an environment must start, or make a step.
    """
    self._spec = spec
    self._start_process = start_process
    self._timeout = timeout
    self._lock = threading.Lock()
    # Guarded by the lock; by the thread that they belong to.
    self._processes = {}
    self._channels = {}
    self._closed = False

  @property
  def closed(self) -> bool:
    """Whether `close` has been called."""
    return self._closed

  @contextlib.contextmanager
  def open(self, level: str, seeds: list[int]):
    """A context with a channel to a new process, which `close` ends, too.

    Raises:
      UserError: The environment can't be made, or has another spec.
      EnvironmentFailure: It failed, or `close` had been called.
      tf.errors.CancelledError: `close` was called meanwhile.
    """
    thread = threading.get_ident()
    with self._lock:
      if self._closed:
        raise process.EnvironmentFailure('The test is over.')
      environment = self._start_process(level, seeds)
      self._processes[thread] = environment
    try:
      protocol.check_spec(
        level, environment.wait_ready(self._timeout), self._spec
      )
      handle = step_op.open_channel(environment, self._timeout)
      with self._lock:
        self._channels[thread] = handle
      yield handle
    except step_op.FAILURES as error:
      raise process.EnvironmentFailure(step_op.failure_reason(error)) from error
    finally:
      with self._lock:
        closed = self._closed
        self._channels.pop(thread, None)
        del self._processes[thread]
      if not closed:
        process.close_all([environment], _GRACE_SECONDS)

  def close(self) -> None:
    """Ends all processes; no others are started."""
    with self._lock:
      self._closed = True
      channels = list(self._channels.values())
      processes = list(self._processes.values())
    for channel in channels:
      step_op.close_channel(channel)
    process.close_all(processes, _GRACE_SECONDS)
