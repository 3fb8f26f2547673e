"""A Unix socket: beside TCP or alone, private, and cleaned up."""

import socket
import stat
from pathlib import Path

import grpc
import pytest

from hlserve.errors import ConfigError, UnavailableError
from hlserve.serving.config import ServerConfig
from hlserve.serving.observing import MetricsConfig
from tests.serving import models
from tests.serving.running import running_server

READY = "/inference.GRPCInferenceService/ServerReady"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    models.put(tmp_path / "models", "mlp", models.mlp())
    return tmp_path / "models"


def is_ready(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        return bool(channel.unary_unary(READY)(b"", timeout=20))


def test_a_unix_socket_answers_beside_tcp_is_private_and_goes_away(
    repository: Path, tmp_path: Path, transport: str
) -> None:
    path = tmp_path / "s"
    with running_server(repository, unix_socket=path, transport=transport) as running:
        assert is_ready(f"unix:{path}")
        assert is_ready(running.address)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert running.server.address == f"{running.address} and unix:{path}"
    assert not path.exists()


def test_a_unix_socket_alone_opens_no_port(
    repository: Path, tmp_path: Path, transport: str
) -> None:
    path = tmp_path / "s"
    with running_server(repository, unix_socket=path, host="", transport=transport) as running:
        assert is_ready(f"unix:{path}")
        assert (running.server.port, running.server.address) == (0, f"unix:{path}")


def test_metrics_of_a_unix_socket_alone_are_for_this_machine(
    repository: Path, tmp_path: Path
) -> None:
    options = {"unix_socket": tmp_path / "s", "host": "", "metrics": MetricsConfig(port=0)}
    with running_server(repository, **options) as running:
        port = running.server.metrics_port
        assert port is not None
        socket.create_connection(("127.0.0.1", port), timeout=20).close()
        with pytest.raises(ConnectionRefusedError):  # it is ours too, and not what was bound
            socket.create_connection(("127.0.0.2", port), timeout=20)


def test_a_socket_left_behind_is_replaced_and_one_in_use_is_not(
    repository: Path, tmp_path: Path, transport: str
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with running_server(repository, unix_socket=path, transport=transport):
        assert is_ready(f"unix:{path}")
        with (
            pytest.raises(UnavailableError, match="another process does"),
            running_server(repository, unix_socket=path, transport=transport),
        ):
            pass
        assert is_ready(f"unix:{path}")


def test_a_file_in_the_way_is_kept(repository: Path, tmp_path: Path, transport: str) -> None:
    path = tmp_path / "notes"
    path.write_text("mine")
    with (
        pytest.raises(UnavailableError, match="it is there already, and no socket"),
        running_server(repository, unix_socket=path, transport=transport),
    ):
        pass
    assert path.read_text() == "mine"


def test_a_folder_that_is_missing_is_told(repository: Path, tmp_path: Path, transport: str) -> None:
    with (
        pytest.raises(UnavailableError, match="its folder is missing or not writable"),
        running_server(repository, unix_socket=tmp_path / "absent" / "s", transport=transport),
    ):
        pass


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"host": ""}, "neither a host nor a Unix socket"),
        ({"processes": 0}, "processes is 0"),
        ({"processes": 2, "unix_socket": Path("s")}, "cannot share a Unix socket"),
    ],
)
def test_addresses_that_cannot_be_are_told(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ServerConfig(models=Path("models"), **options)  # type: ignore[arg-type]
