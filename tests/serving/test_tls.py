"""TLS and mutual TLS, and certificates that are replaced while calls run."""

import concurrent.futures
import logging
from pathlib import Path

import grpc
import pytest
import trustme

from hlserve.errors import ConfigError
from hlserve.serving.tls import Certificates, TlsConfig
from tests.serving import models
from tests.serving.running import running_server

READY = "/inference.GRPCInferenceService/ServerReady"
ALONE = [("grpc.use_local_subchannel_pool", 1)]


def issue(authority: trustme.CA, folder: Path) -> TlsConfig:
    """Writes a pair as an operator would put it in place."""
    pair = authority.issue_cert("127.0.0.1")
    folder.mkdir(exist_ok=True)
    (folder / "cert.pem").write_bytes(b"".join(c.bytes() for c in pair.cert_chain_pems))
    (folder / "key.pem").write_bytes(pair.private_key_pem.bytes())
    return TlsConfig(folder / "cert.pem", folder / "key.pem")


def trusting(authority: trustme.CA, client: TlsConfig | None = None) -> grpc.ChannelCredentials:
    root = authority.cert_pem.bytes()
    if client is None:
        return grpc.ssl_channel_credentials(root)
    return grpc.ssl_channel_credentials(
        root, client.key.read_bytes(), client.certificate.read_bytes()
    )


def is_ready(address: str, credentials: grpc.ChannelCredentials) -> bool:
    with grpc.secure_channel(address, credentials, ALONE) as channel:
        call = channel.unary_unary(READY).future(b"", timeout=10)
        assert call.code() in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
        return bool(call.code() == grpc.StatusCode.OK)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    models.put(tmp_path / "models", "mlp", models.mlp())
    models.put(tmp_path / "models", "slow", models.slow())
    return tmp_path / "models"


def test_tls_answers_those_who_trust_it_and_no_plain_text(
    repository: Path, tmp_path: Path, transport: str
) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    with running_server(
        repository, tls=issue(authority, tmp_path / "tls"), transport=transport
    ) as running:
        assert is_ready(running.address, trusting(authority))
        assert not is_ready(running.address, trusting(stranger))
        with grpc.insecure_channel(running.address) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary(READY)(b"", timeout=10)


def test_mutual_tls_refuses_who_shows_no_certificate_or_a_strangers(
    repository: Path, tmp_path: Path, transport: str
) -> None:
    authority, clients, stranger = trustme.CA(), trustme.CA(), trustme.CA()
    server = issue(authority, tmp_path / "tls")
    clients.cert_pem.write_to_path(tmp_path / "clients.pem")
    tls = TlsConfig(server.certificate, server.key, tmp_path / "clients.pem")
    with running_server(repository, tls=tls, transport=transport) as running:
        assert is_ready(running.address, trusting(authority, issue(clients, tmp_path / "a")))
        assert not is_ready(running.address, trusting(authority))
        assert not is_ready(running.address, trusting(authority, issue(stranger, tmp_path / "b")))


def test_new_certificates_are_used_and_no_call_is_dropped(
    repository: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, transport: str
) -> None:
    old, new = trustme.CA(), trustme.CA()
    tls = issue(old, tmp_path / "tls")
    with (
        running_server(repository, tls=tls, transport=transport) as running,
        grpc.secure_channel(running.address, trusting(old), ALONE) as channel,
        concurrent.futures.ThreadPoolExecutor(1) as threads,
    ):
        ready = channel.unary_unary(READY)
        assert ready(b"", timeout=10)
        calls = threads.submit(lambda: [ready(b"", timeout=10) for _ in range(300)])
        issue(new, tmp_path / "tls")
        assert is_ready(running.address, trusting(new))
        assert not is_ready(running.address, trusting(old))
        assert all(calls.result(timeout=30))

        tls.key.write_bytes(b"nonsense")
        with caplog.at_level(logging.ERROR):
            assert is_ready(running.address, trusting(new))
            assert is_ready(running.address, trusting(new))
        assert caplog.text.count("the old ones stay in use") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tls: tls.certificate.unlink(), "cannot read the TLS certificate .*No such file"),
        (lambda tls: tls.key.unlink(), "cannot read the TLS key"),
        (lambda tls: tls.certificate.write_text("nonsense"), "are no pair"),
        (lambda tls: issue(trustme.CA(), tls.key.parent / "b").key.rename(tls.key), "are no pair"),
        (lambda tls: tls.client_ca.write_text("nonsense"), "holds no PEM certificate"),
    ],
)
def test_wrong_files_are_told_at_the_start(tmp_path: Path, change: object, words: str) -> None:
    authority = trustme.CA()
    pair = issue(authority, tmp_path / "tls")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = TlsConfig(pair.certificate, pair.key, tmp_path / "ca.pem")
    assert Certificates(tls).renew() is None
    assert callable(change)
    change(tls)
    with pytest.raises(ConfigError, match=words):
        Certificates(tls)
