"""Loading a repository: what is checked, what is refused, and that one bad model stays alone."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hlserve.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    ModelNotReadyError,
    RepositoryError,
    VersionNotFoundError,
)
from hlserve.repository import Metadata, Repository, TensorSpec, publish
from hlserve.serving.batching import RunThreads
from hlserve.serving.config import ServerConfig
from hlserve.serving.session import Session
from hlserve.serving.store import ModelStore
from tests.serving import models


def make_store(root: Path) -> ModelStore:
    threads = RunThreads(1)
    store = ModelStore(Repository(root), ServerConfig(models=root), threads)
    threads.shutdown(wait=True)  # nothing runs here
    return store


def loaded(root: Path) -> ModelStore:
    models.put(root, "good", models.mlp())
    store = make_store(root)
    store.load_all()
    return store


def publish_mlp(root: Path, model: bytes | None = None) -> Path:
    content = models.mlp() if model is None else model
    inputs = {"input": np.linspace(-1, 1, 32, dtype=np.float32).reshape(4, 8)}
    outputs = Session(models.mlp()).run(inputs, ["probabilities"])
    metadata = Metadata(
        inputs=(TensorSpec("input", "FP32", (-1, 8), units="cm"),),
        outputs=(
            TensorSpec("probabilities", "FP32", (-1, 3)),
            TensorSpec("logits", "FP32", (-1, 3)),
        ),
        task="classification",
        class_labels=("a", "b", "c"),
        producer="test",
        created="2026-01-01T00:00:00Z",
        sha256=hashlib.sha256(content).hexdigest(),
    )
    golden = {"input:input": inputs["input"], "output:probabilities": outputs["probabilities"]}
    version = publish(root / "m", model=content, metadata=metadata, golden=golden)
    return root / "m" / str(version)


def edit_metadata(folder: Path, **changes: Any) -> None:
    path = folder / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_published_version_is_checked_and_served(tmp_path: Path) -> None:
    publish_mlp(tmp_path)
    model = loaded(tmp_path).get("m")
    assert (model.version, model.joins) == (1, True)
    assert model.metadata is not None
    assert model.metadata.class_labels == ("a", "b", "c")


REFUSALS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no model file": (lambda d: (d / "model.onnx").unlink(), "model.onnx: No such file"),
    "another model": (
        lambda d: (d / "model.onnx").write_bytes(models.mlp(seed=1)),
        "metadata.json expects",
    ),
    "truncated model": (
        lambda d: (d / "model.onnx").write_bytes(models.mlp()[:100]),
        "model.onnx has sha256",
    ),
    "newer schema": (lambda d: edit_metadata(d, schema_version=99), "schema version 99"),
    "broken metadata": (lambda d: (d / "metadata.json").write_text("{"), "is no JSON"),
    "other tensors": (
        lambda d: edit_metadata(d, inputs=[{"name": "z", "datatype": "FP32", "shape": [-1]}]),
        "model.onnx has inputs [('input', 'FP32')], metadata.json [('z', 'FP32')]",
    ),
    "broken golden": (
        lambda d: (d / "golden.safetensors").write_bytes(b"junk"),
        "golden.safetensors",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_version_that_is_not_what_it_says_is_refused(tmp_path: Path, case: str) -> None:
    spoil, message = REFUSALS[case]
    spoil(publish_mlp(tmp_path))
    store = loaded(tmp_path)
    with pytest.raises(ModelNotReadyError) as caught:
        store.get("m")
    assert message in str(caught.value)
    assert "model 'm' is not ready: version 1:" in str(caught.value)
    assert not store.is_ready("m", "")
    assert store.is_ready("good", "")


def test_a_model_that_no_longer_gives_its_golden_answers_is_refused(tmp_path: Path) -> None:
    publish_mlp(tmp_path, models.mlp(seed=5))
    with pytest.raises(ModelNotReadyError, match="golden output 'probabilities': the model's an"):
        loaded(tmp_path).get("m")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (b"", "ONNX Runtime cannot load it"),
        (b"<html>", "ONNX Runtime cannot load it"),
        (models.unknown_operator(), "elsewhere:Mystery(-1) is not a registered function/op"),
        (models.external_data("../w.bin"), "External data path escapes model directory"),
        (models.external_data("/etc/passwd"), "Absolute path not allowed"),
        (models.external_data("link.bin"), "External data path escapes model directory"),
        (models.float8(), "input 'x' is tensor(float8e4m3fn), which the protocol cannot carry"),
    ],
    ids=["empty", "html", "custom op", "outside", "absolute", "link", "float8"],
)
def test_a_model_that_cannot_be_served_does_not_stop_the_others(
    tmp_path: Path, model: bytes, message: str
) -> None:
    folder = models.put(tmp_path, "bad", model)
    (tmp_path / "bad" / "w.bin").write_bytes(b"\0" * 16384)
    (folder / "link.bin").symlink_to(tmp_path / "bad" / "w.bin")
    store = loaded(tmp_path)
    with pytest.raises(ModelNotReadyError) as caught:
        store.get("bad")
    assert message in str(caught.value)
    assert store.get("good").version == 1


def test_external_data_inside_the_folder_is_taken(tmp_path: Path) -> None:
    folder = models.put(tmp_path, "m", models.external_data("weights.bin"))
    (folder / "weights.bin").write_bytes(np.full(4096, 2, np.float32).tobytes())
    model = loaded(tmp_path).get("m")
    answer = model.session.run({"x": np.ones((1, 4096), np.float32)}, ["y"])["y"]
    assert (answer == 3).all()


def test_the_latest_version_is_served_unless_the_policy_says_otherwise(tmp_path: Path) -> None:
    latest, everything, two, chosen = "latest", "all", "two", "chosen"
    policies: dict[str, Any] = {
        latest: None,
        everything: {"version_policy": {"all": {}}},
        two: {"versionPolicy": {"latest": {"numVersions": 2}}},
        chosen: {"version_policy": {"specific": {"versions": ["1"]}}},
    }
    for name, config in policies.items():
        for version in (1, 2, 10):
            last = config if version == 10 else None
            models.put(tmp_path, name, models.mlp(), version=version, config=last)
    store = loaded(tmp_path)
    assert [store.versions(name) for name in policies] == [[10], [1, 2, 10], [2, 10], [1]]
    assert store.get(everything).version == 10
    assert store.get(everything, "2").version == 2
    with pytest.raises(
        VersionNotFoundError, match=r"'latest' version 2 is not served, only \[10\]"
    ):
        store.get(latest, "2")
    with pytest.raises(InvalidRequestError, match=r"version is '2.0', expected a positive integer"):
        store.get(everything, "2.0")
    with pytest.raises(ModelNotFoundError, match="model 'none' is not in this server's repository"):
        store.get("none")
    with pytest.raises(ModelNotFoundError, match=f"did you mean '{everything}'"):
        store.get(everything + "x")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"max_batch_sise": 4}, 'config.json: unknown field "max_batch_sise"'),
        ({"max_batch_size": "many"}, "config.json: Failed to parse max_batch_size"),
        ({"max_batch_size": -1}, "max_batch_size is -1, expected 0 or more"),
        ({"name": "other"}, "name is 'other', expected 'm'"),
        ({"platform": "tensorflow"}, "platform is 'tensorflow', expected 'onnxruntime_onnx'"),
        ({"backend": "python"}, "backend is 'python', expected 'onnxruntime'"),
        ({"parameters": {"x": {"string_value": "1"}}}, "unknown parameter 'x'"),
        (
            {"parameters": {"intra_op_thread_count": {"string_value": "two"}}},
            "parameter 'intra_op_thread_count' is 'two', expected a number",
        ),
        (
            {"parameters": {"intra_op_thread_count": {"string_value": "5000"}}},
            "intra-op threads is 5000",
        ),
        (
            {"version_policy": {"specific": {"versions": [3]}}},
            "version_policy asks for version 3, found [1]",
        ),
        ({"version_policy": {"specific": {}}}, "version_policy.specific names no version"),
        ([], "config.json: it holds no JSON object"),
    ],
)
def test_a_bad_config_is_that_models_problem_only(
    tmp_path: Path, config: Any, message: str
) -> None:
    models.put(tmp_path, "m", models.mlp(), config=config)
    store = loaded(tmp_path)
    with pytest.raises(ModelNotReadyError) as caught:
        store.get("m")
    assert message in str(caught.value)
    assert store.is_ready("good", "1")


def test_a_config_changes_how_its_model_is_served(tmp_path: Path) -> None:
    config = {
        "name": "m",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": 16,
        "dynamic_batching": {"max_queue_delay_microseconds": 500},
        "parameters": {
            "intra_op_thread_count": {"string_value": "2"},
            "max_queue_rows": {"string_value": "99"},
        },
    }
    models.put(tmp_path, "m", models.mlp(), config=config)
    served = loaded(tmp_path).get("m").config
    assert (served.max_request_rows, served.intra_op_threads) == (16, 2)
    batching = served.batching
    assert (batching.max_rows, batching.max_queue_delay_s, batching.max_queue_rows) == (
        16,
        0.0005,
        99,
    )


def test_models_are_loading_until_they_are_loaded(tmp_path: Path) -> None:
    models.put(tmp_path, "m", models.mlp())
    store = make_store(tmp_path)
    assert not store.is_loaded
    with pytest.raises(ModelNotReadyError, match="model 'm' is not ready: it is loading"):
        store.get("m", "1")
    store.load_all()
    assert store.is_loaded


def test_an_empty_repository_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    with pytest.raises(RepositoryError, match=r"expected <model>/<version>/model.onnx"):
        make_store(tmp_path)


@pytest.mark.parametrize("inside", ["m", "m/1"])
def test_a_models_own_folder_is_told_from_a_repository(tmp_path: Path, inside: str) -> None:
    models.put(tmp_path, "m", models.mlp())
    with pytest.raises(RepositoryError, match=rf"give (its parent, )?{tmp_path}"):
        make_store(tmp_path / inside).load_all()
