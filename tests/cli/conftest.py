"""A running server whose models were published by the command, for the commands that ask it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hlserve.cli import cli, run
from tests.serving import models
from tests.serving.running import RunningServer, running_server


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    sources = tmp_path_factory.mktemp("sources")
    (sources / "labels.txt").write_text("low\nmiddle\nhigh\n")
    for name, model, options in [
        ("classes", models.mlp(), ["--class-labels", str(sources / "labels.txt")]),
        ("sums", models.add_and_subtract(), []),
        ("text", models.identity("BYTES"), []),
        ("digits", models.mlp(inputs=64, classes=10), []),
    ]:
        file = sources / f"{name}.onnx"
        file.write_bytes(model)
        assert run(cli, ["publish", str(file), "--out", str(root / name), *options]) == 0
    return root


@pytest.fixture(scope="module")
def address(published: Path) -> Iterator[str]:
    with running_server(published) as server:
        running: RunningServer = server
        yield running.address
