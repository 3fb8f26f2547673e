"""A repository of models of every kind of instance, published as the commands publish them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from hlserve.frontend import FrontEnd, Image, LogMel, Table, TableColumn, Words, to_json
from hlserve.repository import Metadata, TensorSpec, publish
from hlserve.serving.session import Session
from tests.serving import models

CLASSES = ("shoe", "shirt", "bag")
WORDS = Words(vocabulary=("good", "bad", "food"), max_length=6, with_mask=False)
COLUMNS = Table(columns=(TableColumn(name="age"), TableColumn(name="pain", texts=("no", "yes"))))
PIXELS = Image(height=4, width=4, channels=1)
SOUNDS = LogMel(sample_rate=8000, max_frames=10, fmax=4000.0, n_mels=8, with_mask=False)


def softmax_of(
    input_name: str, shape: models.Shape, size: int, activation: str = "Softmax"
) -> bytes:
    """Flattens, multiplies by a fixed matrix of three columns, and makes probabilities."""
    weights = np.random.default_rng(size).standard_normal((size, 3)).astype(np.float32) / size
    closing = {"axis": -1} if activation == "Softmax" else {}
    nodes = [
        helper.make_node("Flatten", [input_name], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        helper.make_node(activation, ["logits"], ["probabilities"], **closing),
    ]
    return models.model_bytes(
        nodes,
        {input_name: (TensorProto.FLOAT, shape)},
        {"probabilities": (TensorProto.FLOAT, ["batch", 3])},
        {"w": weights},
    )


def mean_of_words() -> bytes:
    table = np.random.default_rng(7).standard_normal((5, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input"], ["vectors"]),
        helper.make_node("ReduceMean", ["vectors", "axes"], ["mean"], keepdims=0),
        helper.make_node("Softmax", ["mean"], ["probabilities"], axis=-1),
    ]
    return models.model_bytes(
        nodes,
        {"input": (TensorProto.INT64, ["batch", 6])},
        {"probabilities": (TensorProto.FLOAT, ["batch", 3])},
        {"table": table, "axes": np.array([1], np.int64)},
    )


def twice() -> bytes:
    kind = (TensorProto.FLOAT, ["batch", 2])
    node = helper.make_node("Add", ["input", "input"], ["y"])
    return models.model_bytes([node], {"input": kind}, {"y": kind})


def filled_cells() -> bytes:
    """A row of two cells, 0 in place of NaN, then probabilities of three classes."""
    weights = np.array([[1.0, 0.0, -1.0], [0.0, 1.0, 2.0]], np.float32)
    nodes = [
        helper.make_node("IsNaN", ["input"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "input"], ["known"]),
        helper.make_node("MatMul", ["known", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    return models.model_bytes(
        nodes,
        {"input": (TensorProto.FLOAT, ["batch", 2])},
        {"probabilities": (TensorProto.FLOAT, ["batch", 3])},
        {"w": weights, "zero": np.zeros((), np.float32)},
    )


def make_repository(root: Path) -> Path:
    """Writes all of them."""
    images = softmax_of("input", ["batch", 1, 4, 4], 16)
    _publish(root, "images", images, "classification", PIXELS)
    _publish(root, "numbers", softmax_of("input", ["batch", 1, 4, 4], 16), "classification")
    _publish(root, "sounds", softmax_of("input", ["batch", 10, 8], 80), "classification", SOUNDS)
    _publish(root, "words", mean_of_words(), "classification", WORDS)
    _publish(root, "table", filled_cells(), "classification", COLUMNS)
    _publish(root, "twice", twice(), "regression")
    tags = softmax_of("input", ["batch", 2], 2, "Sigmoid")
    _publish(root, "tags", tags, "multilabel")
    _publish(root, "unnamed", tags, "classification", labels=None)
    models.put(root, "plain", models.mlp())
    models.put(root, "two", models.add_and_subtract())
    models.put(root, "open", models.time_major())
    models.put(root, "one", models.fixed_batch())
    models.put(root, "slow", models.slow())
    for datatype in ("INT8", "INT64", "BOOL", "BYTES", "FP16"):
        models.put(root, datatype, models.identity(datatype))
    return root


def _publish(
    root: Path,
    name: str,
    model: bytes,
    task: str,
    front_end: FrontEnd | None = None,
    labels: Sequence[str] | None = CLASSES,
) -> None:
    session = Session(model)
    metadata = Metadata(
        inputs=_specs(session.inputs),
        outputs=_specs(session.outputs),
        task=task,
        class_labels=None if labels is None or task == "regression" else tuple(labels),
        producer="tests",
        created="2026-01-01T00:00:00Z",
        sha256=hashlib.sha256(model).hexdigest(),
        frontend=None if front_end is None else to_json(front_end),
    )
    publish(root / name, model=model, metadata=metadata)


def _specs(tensors: Any) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(t.name, t.datatype.name, t.shape) for t in tensors)
