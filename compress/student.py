"""A fresh, smaller network that takes and gives what the original does."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx

from compress.evaluate import Judge, bind_rows, ends_in_sigmoid, make_judge
from compress.export import Model
from compress.metric import ACCURACY, AGREEMENT, LABEL_AGREEMENT
from compress.session import Session
from hlserve.datasets import Rows
from hlserve.errors import ConfigError
from hlserve.nn.architectures import build_for
from hlserve.nn.network import Input, Network, Task
from hlserve.nn.param import Array
from hlserve.nn.table import categories_of


def student_for(spec: str, model: Model, train: Rows, *, seed: int) -> Network:
    """A fresh network that takes and gives what the original does, under the same names."""
    if isinstance(model, Network):
        place = _place_of_network(model, train)
    else:
        place = _place_of_onnx(model, train)
    is_classes = place.task == "classification"
    numbered = tuple(str(i) for i in range(place.answers.shape[1]))
    numbers = place.answers if train.y is None else train.y
    network = build_for(
        spec,
        place.rows,
        np.zeros(len(place.rows), np.int64) if is_classes else numbers,
        task=place.task,
        class_labels=(place.class_labels or numbered) if is_classes else None,
        units=place.input.units,
        categories=categories_of(model) if isinstance(model, Network) else None,
        seed=seed,
    )
    return _renamed(network, place)


# ----- below


@dataclass(frozen=True, slots=True)
class _Place:
    """What a student has to fit into.

    Attributes:
        input, output: the original's names.
        rows: training rows in the original's shape and the data's type.
        answers: the original's for some rows, (rows, outputs).
    """

    input: Input
    output: str
    rows: Array
    answers: Array
    task: Task
    class_labels: tuple[str, ...] | None


def _place_of_network(model: Network, train: Rows) -> _Place:
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ConfigError(
            "--student takes the place of models with one input and one output; this one has "
            f"{[entry.name for entry in model.inputs]} and {list(model.outputs)}"
        )
    (entry,) = model.inputs
    _require_floats(entry.name, entry.dtype)
    (output,) = model.outputs
    rows = train.x.reshape(len(train), *entry.shape)
    task: Task = model.task or "regression"
    answers = model.predict(rows)[output]
    return _Place(entry, output, rows, answers, task, model.class_labels)


def _place_of_onnx(model: onnx.ModelProto, train: Rows) -> _Place:
    session = Session(model.SerializeToString())
    if len(session.inputs) != 1 or len(session.outputs) != 1:
        raise ConfigError(
            "--student takes the place of models with one input and one output; this one has "
            f"{len(session.inputs)} and {len(session.outputs)}"
        )
    (port,) = session.inputs
    _require_floats(port.name, port.dtype)
    feeds = bind_rows(session, train)
    judge = make_judge(model, session, train.y)
    answers = judge.answers(session, feeds)
    if answers.ndim != 2:
        raise ConfigError(f"--student answers one row of numbers, the original {answers.shape}")
    rows = feeds[port.name].astype(train.x.dtype, copy=False)  # uint8 says that these are pixels
    return _Place(
        Input(port.name, rows.shape[1:]),
        judge.output,
        rows,
        answers,
        _task_of(judge, ends_in_sigmoid(model, judge.output), answers, train.y),
        None,
    )


def _require_floats(name: str, dtype: str) -> None:
    if dtype != "float32":
        raise ConfigError(f"--student takes float32; input {name!r} is {dtype}")


def _task_of(judge: Judge, is_sigmoid: bool, answers: Array, labels: Array | None) -> Task:
    if judge.metric not in (ACCURACY, AGREEMENT, LABEL_AGREEMENT):
        return "regression"
    # A sigmoid of its own for each class is one class a row where the labels say so.
    has_one_class = labels is not None and labels.ndim == 1 and answers.shape[1] > 1
    return "multilabel" if is_sigmoid and not has_one_class else "classification"


def _renamed(network: Network, place: _Place) -> Network:
    (entry,) = network.inputs
    (node,) = network.outputs.values()
    names = {entry.name: place.input.name}
    nodes = [replace(n, inputs=tuple(names.get(i, i) for i in n.inputs)) for n in network.nodes]
    return Network(
        [replace(entry, name=place.input.name)],
        nodes,
        {place.output: node},
        task=network.task,
        class_labels=place.class_labels,
    )
