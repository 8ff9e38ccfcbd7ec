import subprocess
import types

import grpc
import pytest

from impala.distributed import (
  client,
  framing,
  remote_pool,
  service_pb2,
  tls,
)
from impala.environments import protocol


def _config(**flags):
  return types.SimpleNamespace(
    **{
      'tls_authority': '',
      'tls_certificate': '',
      'tls_key': '',
      'insecure': False,
      **flags,
    }
  )


@pytest.mark.parametrize('host', ['localhost', '127.0.0.1', '[::1]'])
def test_this_machine_is_served_in_plain_text(host):
  assert tls.server_credentials(_config(), f'{host}:1') is None


def test_other_machines_are_not(tmp_path):
  with pytest.raises(protocol.UserError, match='--insecure'):
    tls.server_credentials(_config(), '0.0.0.0:1')
  insecure = _config(insecure=True)
  assert tls.server_credentials(insecure, '0.0.0.0:1') is None


def test_an_unknown_host():
  with pytest.raises(protocol.UserError, match=r'nowhere\.invalid'):
    tls.server_credentials(_config(), 'nowhere.invalid:1')


def test_files_for_tls(tmp_path):
  some = _config(tls_key='key.pem')
  for credentials in (
    lambda: tls.channel_credentials(some),
    lambda: tls.server_credentials(some, 'localhost:1'),
  ):
    with pytest.raises(protocol.UserError, match='go together'):
      credentials()
  missing = str(tmp_path / 'missing.pem')
  names = ('tls_authority', 'tls_certificate', 'tls_key')
  with pytest.raises(protocol.UserError, match=r'missing\.pem'):
    tls.channel_credentials(_config(**dict.fromkeys(names, missing)))


def test_tls_takes_only_those_with_a_certificate(make_pool, agent, tmp_path):
  def make(name, *signing):
    subprocess.run(
      [
        'openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days',
        '2', '-subj', '/CN=localhost', '-addext',
        'subjectAltName=DNS:localhost', '-keyout', f'{name}.key', '-out',
        f'{name}.pem', *signing,
      ],
      cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip

  try:
    make('authority')
  except FileNotFoundError:
    pytest.skip('needs openssl')
  make('learner', '-CA', 'authority.pem', '-CAkey', 'authority.key')
  make('actor', '-CA', 'authority.pem', '-CAkey', 'authority.key')

  def flags(name):
    return _config(
      tls_authority=str(tmp_path / 'authority.pem'),
      tls_certificate=str(tmp_path / f'{name}.pem'),
      tls_key=str(tmp_path / f'{name}.key'),
    )

  pool = make_pool(
    credentials=tls.server_credentials(flags('learner'), 'localhost:0')
  )
  pool.start()
  try:
    signature = remote_pool.run_signature(pool.specs, agent.trainable_variables)
    welcome = client.LearnerClient(
      pool.address, 0, signature, tls.channel_credentials(flags('actor'))
    )
    welcome.join()
    welcome.close()
    authority = (tmp_path / 'authority.pem').read_bytes()
    for credentials in (None, grpc.ssl_channel_credentials(authority)):
      stranger = client.LearnerClient(pool.address, 0, signature, credentials)
      future = stranger._call_join.future(
        framing.pack(service_pb2.JoinRequest(signature=signature))
      )
      with pytest.raises(grpc.RpcError):
        future.result(timeout=20)
      stranger.close()
  finally:
    pool.close()
