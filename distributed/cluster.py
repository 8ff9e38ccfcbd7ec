"""Where the learner is, and how to speak with it."""

import ipaddress
import json
import os
import pathlib
import socket

import grpc

from impala.environments import protocol

_DEFAULT_ADDRESS = 'localhost:8470'


def learner_address(config) -> str:
  """Returns the learner's 'host:port'.

  It is what `--learner_hosts` says; else the job 'learner', 'chief' or 'worker'
  of `TF_CONFIG`; else one on this machine.

  Raises:
    UserError: It is not one address, or none.
  """
  addresses = list(config.learner_hosts) or _of_tf_config()
  if len(addresses) > 1:
    raise protocol.UserError(
      f'There are {len(addresses)} learners in {",".join(addresses)}: this '
      'version supports a single one.'
    )
  address = addresses[0] if addresses else _DEFAULT_ADDRESS
  host, _, port = address.rpartition(':')
  if not host or not port.isdecimal() or int(port) > 65535:
    raise protocol.UserError(
      f'--learner_hosts={address} is no host:port, such as {_DEFAULT_ADDRESS}.'
    )
  return address


def _of_tf_config():
  text = os.environ.get('TF_CONFIG')
  if not text:
    return []
  try:
    jobs = json.loads(text)['cluster']
    return next(jobs[j] for j in ('learner', 'chief', 'worker') if j in jobs)
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
