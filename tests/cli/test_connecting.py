"""Commands that ask a server which wants TLS, a certificate of theirs and an API key."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trustme

from hlserve.bench.asking import Target
from hlserve.cli import cli, run
from hlserve.client.connection import Connection
from hlserve.serving.config import ControlConfig
from hlserve.serving.tls import TlsConfig
from tests.serving import models
from tests.serving.running import running_server

KEY = "a key of the tests"


@pytest.mark.parametrize("cls", [partial(Connection, "a:1"), partial(Target, "a:1", "m")])
def test_a_key_does_not_show_where_what_holds_it_is_shown(cls: Callable[..., object]) -> None:
    assert "a:1" in repr(cls(api_key=KEY))
    assert KEY not in repr(cls(api_key=KEY))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, and certificates of the server and of a client, each by an authority of its own."""
    root = tmp_path_factory.mktemp("certificates")
    for side, name in (("server", "models.example.com"), ("client", "someone@example.com")):
        authority = trustme.CA()
        authority.cert_pem.write_to_path(root / f"{side}-ca.pem")
        pair = authority.issue_cert(name)
        pair.private_key_pem.write_to_path(root / f"{side}-key.pem")
        pair.cert_chain_pems[0].write_to_path(root / f"{side}.pem")
    np.save(root / "rows.npy", np.zeros((1, 8), np.float32))
    return root


@pytest.fixture(scope="module")
def address(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("models")
    models.put(root, "mlp", models.mlp())
    keys = folder / "keys.json"
    keys.write_text(json.dumps({"all": [KEY], "health": [KEY]}))
    keys.chmod(0o600)
    with running_server(
        root,
        tls=TlsConfig(folder / "server.pem", folder / "server-key.pem", folder / "client-ca.pem"),
        api_key_file=keys,
        control=ControlConfig("explicit", load_models=("mlp",)),
    ) as running:
        yield running.address


@pytest.fixture
def options(folder: Path) -> list[str]:
    return [
        *("--tls-ca", str(folder / "server-ca.pem"), "--tls-server-name", "models.example.com"),
        *("--tls-cert", str(folder / "client.pem"), "--tls-key", str(folder / "client-key.pem")),
    ]


COMMANDS = {
    "list": ("models", "list", "ADDRESS"),
    "stats": ("models", "stats", "ADDRESS"),
    "unload": ("models", "unload", "ADDRESS", "mlp"),
    "load": ("models", "load", "ADDRESS", "mlp"),
    "health": ("health", "ADDRESS"),
    "predict": ("predict", "ADDRESS", "mlp", "--input", "ROWS"),
    "bench": ("bench", "ADDRESS", "mlp", "--seconds", "0.1", "--connections", "1"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_connects_as_it_is_told(
    address: str, folder: Path, options: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"ADDRESS": address, "ROWS": str(folder / "rows.npy")}
    command = [words.get(word, word) for word in COMMANDS[name]]
    assert run(cli, [*command, *options, "--api-key", KEY]) == 0
    assert run(cli, [*command, *options]) == 1
    assert "UNAUTHENTICATED" in capsys.readouterr().err


def test_what_is_the_same_at_every_call_may_stand_in_the_environment(
    address: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("API_KEY", KEY),
        ("TLS_CA", str(folder / "server-ca.pem")),
        ("TLS_SERVER_NAME", "models.example.com"),
        ("HEALTH_TLS_CERT", str(folder / "client.pem")),
        ("HEALTH_TLS_KEY", str(folder / "client-key.pem")),
        ("TLS_CERT", str(folder / "server.pem")),  # the server's, in the same container
    ):
        monkeypatch.setenv(f"HLSERVE_{name}", value)
    assert run(cli, ["health", address]) == 0


def test_a_wrong_connection_is_told(
    address: str, folder: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    health = ["health", address, "--timeout-s", "2", "--api-key", KEY]
    for wrong, code, words in (
        ([], 1, f"cannot connect to {address} without TLS"),
        (["--tls"], 1, f"cannot connect to {address} with TLS"),
        (options[:-2], 2, "mutual TLS needs both"),
        (["--tls-ca", str(folder / "absent.pem")], 2, "absent.pem: No such file"),
    ):
        assert run(cli, [*health, *wrong]) == code
        assert words in capsys.readouterr().err
