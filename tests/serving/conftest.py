"""One real server for the tests that only ask it, and a client."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hlserve.client import InferenceClient
from hlserve.serving.server import TRANSPORTS
from tests.serving import models
from tests.serving.running import RunningServer, running_server


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for datatype in models.ONNX_TYPES:
        models.put(root, f"identity_{datatype}", models.identity(datatype))
    models.put(root, "mlp", models.mlp())
    models.put(root, "add_and_subtract", models.add_and_subtract())
    models.put(root, "lookup", models.lookup())
    models.put(root, "time_major", models.time_major())
    models.put(root, "fixed_batch", models.fixed_batch())
    models.put(root, "limited", models.mlp(), config={"max_batch_size": 4})
    models.put(root, "slow", models.slow())
    models.put(root, "corrupt", b"<html>not found</html>")
    return root


@pytest.fixture(scope="session", params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Each transport: every test that asks a server holds over all of them."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def server(repository: Path, transport: str) -> Iterator[RunningServer]:
    with running_server(repository, transport=transport) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[InferenceClient]:
    with InferenceClient(server.address, timeout_s=20) as inference_client:
        yield inference_client
