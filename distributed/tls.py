"""Credentials: TLS with client certificates, or plain text on purpose."""

import ipaddress
import pathlib
import socket

import grpc

from impala.environments import protocol


def server_credentials(config, address) -> grpc.ServerCredentials | None:
  """Returns credentials for TLS with client certificates; None for plain text.

  Raises:
    UserError: Files are missing, or others than this machine's would be served
      in plain text without `--insecure`.
  """
  files = _files(config)
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
  files = _files(config)
  if not files:
    return None
  authority, certificate, key = files
  return grpc.ssl_channel_credentials(authority, key, certificate)


def _files(config):
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
