"""Where the learners are, and how to speak with them."""

import ipaddress
import json
import os
import pathlib
import socket

import grpc

from impala.distributed import synchronous
from impala.environments import protocol

_DEFAULT_ADDRESS = 'localhost:8470'


def learner_hosts(config) -> list[str]:
  """Returns each learner's 'host:port' for its actors.

  They are what `--learner_hosts` says; else the job 'learner' or 'worker' of
  `TF_CONFIG`; else one on this machine.

  Raises:
    UserError: They are no addresses.
  """
  addresses = list(config.learner_hosts) or _of_tf_config()
  for address in addresses:
    host, _, port = address.rpartition(':')
    if not host or not port.isdecimal() or int(port) > 65534:
      raise protocol.UserError(
        f'{address!r} in --learner_hosts is no host:port, such as '
        f'{_DEFAULT_ADDRESS}.'
      )
  return addresses or [_DEFAULT_ADDRESS]


def learner_of_actor(config) -> str:
  """Returns the address of the learner that an actor belongs to."""
  addresses = learner_hosts(config)
  return addresses[config.task % len(addresses)]


def own_address(config) -> str:
  """Returns the address of the learner that this is.

  Raises:
    UserError: There are fewer learners.
  """
  addresses = learner_hosts(config)
  if config.task >= len(addresses):
    raise protocol.UserError(
      f'--task={config.task} of {len(addresses)} learners: they count from 0, '
      'and --learner_hosts names each.'
    )
  return addresses[config.task]


def make_group(config) -> synchronous.Alone:
  """Returns the learners that update together; waits for them to be there.

  Each speaks to the others at the port after that for its actors.

  Raises:
    UserError: The batch can't be shared among them.
  """
  addresses = learner_hosts(config) if config.task >= 0 else []
  if len(addresses) < 2:
    return synchronous.Alone()
  if config.batch_size % len(addresses):
    raise protocol.UserError(
      f'--batch_size={config.batch_size} cannot be shared by {len(addresses)} '
      'learners: make it a multiple of that.'
    )
  own_address(config)
  neighbours = []
  for address in addresses:
    host, _, port = address.rpartition(':')
    neighbours.append(f'{host}:{int(port) + 1}')
  return synchronous.Group(neighbours, config.task)


def _of_tf_config():
  text = os.environ.get('TF_CONFIG')
  if not text:
    return []
  try:
    jobs = json.loads(text)['cluster']
    return next(jobs[job] for job in ('learner', 'worker') if job in jobs)
  except (ValueError, KeyError, TypeError, StopIteration) as error:
    raise protocol.UserError(
      'The environment variable TF_CONFIG has no learner: write it as '
      '{"cluster": {"learner": ["host:port"]}}, or unset it and give '
      '--learner_hosts.'
    ) from error


def server_credentials(config, address) -> grpc.ServerCredentials | None:
  """Returns credentials for TLS with client certificates; None for plain text.

  Raises:
    UserError: Files are missing, or others than this machine's would be served
      in plain text without `--insecure`.
  """
  files = _tls_files(config)
  if files:
    authority, certificate, key = files
    return grpc.ssl_server_credentials(
      [(key, certificate)], authority, require_client_auth=True
    )
  if not config.insecure and not _is_loopback(address.rpartition(':')[0]):
    raise protocol.UserError(
      f'{address} can be reached from other machines: give --tls_authority, '
      '--tls_certificate and --tls_key, or --insecure where the network is '
      'trusted.'
    )
  return None


def channel_credentials(config) -> grpc.ChannelCredentials | None:
  """Returns an actor's credentials for TLS; None for plain text.

  Raises:
    UserError: Files are missing.
  """
  files = _tls_files(config)
  if not files:
    return None
  authority, certificate, key = files
  return grpc.ssl_channel_credentials(authority, key, certificate)


def _tls_files(config):
  paths = [config.tls_authority, config.tls_certificate, config.tls_key]
  if not any(paths):
    return None
  if not all(paths):
    raise protocol.UserError(
      '--tls_authority, --tls_certificate and --tls_key go together.'
    )
  try:
    return [pathlib.Path(path).read_bytes() for path in paths]
  except OSError as error:
    raise protocol.UserError(
      f'{error.filename} cannot be read: {error.strerror}. It is to be a PEM '
      'file.'
    ) from error


def _is_loopback(host):
  try:
    found = socket.getaddrinfo(host.strip('[]'), None)
  except OSError as error:
    raise protocol.UserError(
      f'The host {host!r} is not known: name one that this machine has.'
    ) from error
  return all(ipaddress.ip_address(a[4][0]).is_loopback for a in found)
