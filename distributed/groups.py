"""Whom a learner updates together with."""

import socket
import time
from collections.abc import Sequence

from impala.distributed import synchronous
from impala.environments import protocol

_PAUSE_SECONDS = 0.2  # Between two attempts to reach another learner.
_TELL_SECONDS = 30.0
_PATIENCE_SECONDS = 5.0  # Of one attempt.


def make_group(config, devices: Sequence[str]) -> synchronous.Alone:
  """Returns the learners that update together; waits for them to be there.

  Each speaks to the others at the port after that for its actors.

  Args:
    config: Has experiment.py's flags as attributes, as `cluster.resolve` gives.
    devices: This learner's.

  Raises:
    UserError: The batch can't be shared among them, or an address is not to be
      used.
  """
  addresses = config.learner_hosts if config.task >= 0 else []
  if len(addresses) > 1 and len(devices) > 1:
    raise protocol.UserError(
      f'Learner {config.task} has {len(devices)} GPUs: start one learner for '
      'each, with another CUDA_VISIBLE_DEVICES and in --learner_hosts.'
    )
  size = max(len(addresses), len(devices))
  if config.batch_size % size:
    raise protocol.UserError(
      f'--batch_size={config.batch_size} cannot be shared by {size} '
      f'{"learners" if len(addresses) > 1 else "GPUs"}: make it a multiple of '
      'that.'
    )
  if len(devices) > 1:
    return synchronous.Mirrored(devices)
  if len(addresses) > 1:
    neighbours = [_next_port(address) for address in addresses]
    _wait_for_all(neighbours, config.task)
    return synchronous.Group(
      [f'{host}:{port}' for host, port in neighbours], config.task
    )
  return synchronous.Alone()


def _next_port(address):
  host, _, port = address.rpartition(':')
  return host, int(port) + 1


def _wait_for_all(neighbours, task):
  """Waits until each listens: TensorFlow waits, too, but deaf to signals."""
  own = neighbours[task]
  try:
    # At all addresses, as TensorFlow's own does: a host's name is often that of
    # its loopback for itself.
    listener = (
      socket.create_server(
        ('', own[1]), family=socket.AF_INET6, dualstack_ipv6=True
      )
      if socket.has_dualstack_ipv6()
      else socket.create_server(('', own[1]))
    )
  except OSError as error:
    raise protocol.UserError(
      f'{own[0]}:{own[1]} cannot be listened at ({error}): it is for the other '
      'learners. Name another with --learner_hosts.'
    ) from error
  missing = [other for other in neighbours if other != own]
  tell_at = time.monotonic()
  with listener:
    while missing:
      if time.monotonic() >= tell_at:
        names = ', '.join(f'{host}:{port}' for host, port in missing)
        print(f'Waiting for the other learners: {names}.', flush=True)
        tell_at += _TELL_SECONDS
      missing = [other for other in missing if not _is_there(*other)]
      time.sleep(_PAUSE_SECONDS)


def _is_there(host, port):
  try:
    # When this one is past waiting, TensorFlow listens at its port.
    with socket.create_connection((host.strip('[]'), port), _PATIENCE_SECONDS):
      return True
  except OSError:
    return False
