"""An unmodified tritonclient loads and unloads models over the wire."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hlserve.serving.config import ControlConfig
from tests.serving import models
from tests.serving.running import running_server

triton = pytest.importorskip("tritonclient.grpc")


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Any]:
    """Of a server that holds ``a`` and ``b`` and has loaded ``a``."""
    for name in "ab":
        models.put(tmp_path, name, models.mlp())
    control = ControlConfig("explicit", load_models=("a",))
    with (
        running_server(tmp_path, control=control) as server,
        triton.InferenceServerClient(server.address) as opened,
    ):
        yield opened


def states(client: Any) -> dict[tuple[str, str], str]:
    return {
        (entry.name, entry.version): entry.state
        for entry in client.get_model_repository_index().models
    }


def test_a_model_is_loaded_and_unloaded(client: Any) -> None:
    assert states(client) == {("a", "1"): "READY", ("b", ""): "UNAVAILABLE"}
    client.load_model("b")
    assert client.is_model_ready("b")
    assert states(client) == {("a", "1"): "READY", ("b", "1"): "READY"}
    client.unload_model("b")
    assert not client.is_model_ready("b")
    assert [one.name for one in client.get_inference_statistics().model_stats] == ["a"]


def test_a_configuration_and_files_of_the_call_stand_in_for_those_on_disk(client: Any) -> None:
    client.load_model("b", config=json.dumps({"max_batch_size": 4}))
    assert client.get_model_config("b").config.max_batch_size == 4
    client.load_model("b", config="{}", files={"file:3/model.onnx": models.mlp(seed=2)})
    assert list(client.get_model_metadata("b").versions) == ["3"]
    client.load_model("b")
    assert list(client.get_model_metadata("b").versions) == ["1"]


@pytest.mark.parametrize(
    ("name", "options", "status", "words"),
    [
        ("absent", {}, "NOT_FOUND", "model 'absent'"),
        ("b", {"config": "{"}, "INVALID_ARGUMENT", "JSON"),
        (
            "b",
            {"config": "{}", "files": {"file:1/model.onnx": b"junk"}},
            "INVALID_ARGUMENT",
            "ONNX Runtime cannot",
        ),
    ],
)
def test_a_load_that_fails_says_why_and_leaves_the_others(
    client: Any, name: str, options: dict[str, Any], status: str, words: str
) -> None:
    with pytest.raises(triton.InferenceServerException, match=words) as caught:
        client.load_model(name, **options)
    assert caught.value.status() == f"StatusCode.{status}"
    assert client.is_model_ready("a")
