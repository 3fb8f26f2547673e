"""``hlserve models`` against a real server, and ``hlserve serve --check``."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hlserve.cli import cli, run
from hlserve.client import InferenceClient
from tests.serving import models
from tests.serving.running import RunningServer, running_server


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    models.put(root, "mlp", models.mlp())
    models.put(root, "time_major", models.time_major())
    models.put(root, "corrupt", b"<html>not found</html>")
    return root


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[RunningServer]:
    with running_server(repository) as running:
        yield running


def test_list_shows_every_model_with_its_state_and_reason(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cli, ["models", "list", server.address, "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert {name: row["state"] for name, row in listed.items()} == {
        "mlp": "READY",
        "time_major": "READY",
        "corrupt": "UNAVAILABLE",
    }
    assert "ONNX Runtime cannot" in listed["corrupt"]["reason"]
    assert run(cli, ["models", "list", server.address]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["model", "version", "state", "reason"]
    assert "mlp         1          READY" in out


def test_stats_shows_what_each_model_has_done(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with InferenceClient(server.address) as client:
        client.infer("mlp", np.zeros((2, 8), np.float32))
    assert run(cli, ["models", "stats", server.address, "mlp", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["version"]) == ("mlp", "1")
    assert run(cli, ["models", "stats", server.address]) == 0
    out = capsys.readouterr().out
    assert out.startswith("model ")
    assert "time_major" in out


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_load_and_unload_say_why_a_server_refuses(
    server: RunningServer, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    assert run(cli, ["models", verb, server.address, "mlp"]) == 1
    refusal = "error: UNAVAILABLE: explicit model load / unload is not allowed"
    assert refusal in capsys.readouterr().err


def test_check_tells_what_would_not_be_served_and_fails(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cli, ["serve", str(repository), "--check"]) == 1
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert "yes" in rows["mlp"]
    assert "input FP32 [-1, 8]" in rows["mlp"]
    assert "probabilities FP32 [-1, 3], logits FP32 [-1, 3]" in rows["mlp"]
    assert "no" in rows["time_major"].split()
    assert "model 'corrupt' version 1 is not ready" in rows["corrupt"]
    assert "2 can be served, 1 cannot" in out


def test_check_of_a_good_repository_succeeds_and_leaves_versions_out_that_are_not_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models.put(tmp_path, "mlp", models.mlp())
    models.put(tmp_path, "mlp", models.mlp(1), version=2)
    assert run(cli, ["serve", str(tmp_path), "--check"]) == 0
    assert "1 can be served, 0 cannot" in capsys.readouterr().out


def test_check_tells_of_a_model_without_a_version_and_of_a_folder_that_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / " blank").mkdir()
    assert run(cli, ["serve", str(tmp_path), "--check"]) == 1
    out = capsys.readouterr().out
    assert "its folder holds no version" in out
    assert "a bad name, or a link out" in out
