"""The whole job, from what a user has at hand to what the search found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx

from compress.bound import parse_max_drop
from compress.candidates import Plan
from compress.evaluate import Judge, bind_rows, ends_in_sigmoid, ends_in_softmax, make_judge
from compress.metric import ACCURACY, AGREEMENT, LABEL_AGREEMENT, metric_named
from compress.model_file import read_onnx
from compress.recipe import Recipe
from compress.search import (
    Goal,
    Minimize,
    Result,
    Search,
    Tell,
    prepare_network,
    prepare_onnx,
    search,
)
from compress.session import Session
from compress.technique import Data
from hlserve.datasets import Rows
from hlserve.errors import CompressionError, ConfigError, DataError, ModelFileError
from hlserve.nn import checkpoint
from hlserve.nn.architectures import build_for
from hlserve.nn.network import Input, Network, Task
from hlserve.nn.param import Array
from hlserve.nn.split import validation_split
from hlserve.nn.table import categories_of

SHARE_APART = 0.2  # of the rows, where no others were given to judge with
SMALLEST_PROBABILITY = 1e-7  # keeps logarithms of a teacher's probabilities finite

Model = Network | onnx.ModelProto


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asks for, unread: see ``compress.compress`` and ``hlserve compress --help``."""

    max_drop: str | float
    metric: str | None = None
    output: str | None = None
    minimize: Minimize = "latency"
    batches: tuple[int, ...] = (1, 32)
    plan: Plan = field(default_factory=Plan)
    teacher: Model | None = None
    student: str | None = None
    require_proof: bool = False
    seed: int = 0


def read_model(path: Path) -> Model:
    """A checkpoint of ``hlserve train`` or an ONNX file, told apart by the file's name.

    Raises:
        ModelFileError: it cannot be read; says why.
    """
    if path.suffix == ".safetensors":
        return checkpoint.load(path)
    if path.suffix == ".onnx":
        return read_onnx(path)
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder; name the .safetensors or .onnx file in it")
    raise ModelFileError(f"{path}: expected a checkpoint (.safetensors) or an ONNX file (.onnx)")


def rows_apart(rows: Rows, *, seed: int) -> tuple[Rows, Rows]:
    """Rows to learn from and rows to judge with, where only one set was given.

    Raises:
        DataError: too few rows.
    """
    is_classes = rows.y is not None and rows.y.ndim == 1 and rows.y.dtype.kind in "iu"
    labels = rows.y if is_classes else None
    kept, apart = validation_split(len(rows), SHARE_APART, seed=seed, labels=labels)
    return rows.take(kept), rows.take(apart)


def prepare(
    model: Model, train: Rows, evaluation: Rows, wishes: Wishes, *, progress: bool = False
) -> tuple[Search, Goal]:
    """Everything that can be wrong with the wishes is found here, before any long work.

    Raises:
        ConfigError, DataError, ModelFileError, CompressionError: see ``search``.
    """
    metric = None if wishes.metric is None else metric_named(wishes.metric)
    plan = wishes.plan
    data = None
    if isinstance(model, Network) or wishes.student is not None:
        data = _data(model, train, wishes, progress=progress)
    elif wishes.teacher is not None:
        raise ConfigError("a teacher needs a network to teach: a checkpoint, or a --student")
    if wishes.student is not None:
        plan = replace(plan, student=_student(wishes.student, model, train, wishes))
    if isinstance(model, Network):
        assert data is not None
        if wishes.output is not None:
            raise ConfigError("--output is for ONNX files; a checkpoint has one output")
        prepared = prepare_network(model, data, evaluation, plan=plan, metric=metric)
    else:
        prepared = prepare_onnx(
            model,
            train,
            evaluation,
            plan=plan,
            data=data,
            metric=metric,
            output=wishes.output,
            seed=wishes.seed,
        )
    goal = Goal(
        parse_max_drop(wishes.max_drop, prepared.judge.metric),
        wishes.minimize,
        wishes.batches,
        wishes.require_proof,
    )
    return prepared, goal


def compress(
    model: Model | str | Path,
    *,
    train: Rows | tuple[Array, Array | None] | Mapping[str, Array],
    valid: Rows | tuple[Array, Array | None] | Mapping[str, Array] | None = None,
    max_drop: str | float,
    metric: str | None = None,
    output: str | None = None,
    minimize: Minimize = "latency",
    batches: Sequence[int] = (1, 32),
    prune: float | None = None,
    quantize: str | None = None,
    recipe: Recipe | None = None,
    teacher: Model | str | Path | None = None,
    student: str | None = None,
    require_proof: bool = False,
    seed: int = 0,
    progress: bool = False,
    tell: Tell | None = None,
) -> Result:
    """The smallest and fastest model that keeps the metric within ``max_drop``.

    Args:
        model: a network, an ONNX model, or the path of a checkpoint or ONNX file; stays as it is.
        train: rows to learn from and calibrate with: ``(X, y)``, ``Rows``, or arrays by input
            name. X is (rows, ...) in raw units; labels may be None.
        valid: rows to judge with; without, a fifth of ``train`` is set apart.
        max_drop: absolute, in the metric's unit; ``"0.5pp"`` is 0.005.
        metric: ``accuracy``, ``f1``, ``roc_auc``, ``mse``, ``mae``, ``agreement``,
            ``label-agreement``, ``cosine``, or your own ``module:function``; None takes
            accuracy for class labels, mse for numbers, agreement with the original without
            labels.
        output: the output that is judged, of an ONNX model.
        minimize: ``latency`` or ``bytes``.
        batches: rows a run, at which latency is measured.
        prune: the only share of units to prune.
        quantize: ``int8`` or ``none``, to try only that.
        recipe: a ``compress.recipe.Recipe``, to try only that.
        teacher: whose answers are imitated; None: the original.
        student: an architecture such as ``mlp:64`` to distil into.
        require_proof: refuse what is inside the bound by its estimate alone.
        seed: of every random choice.
        progress: whether a terminal shows bars.
        tell: is called with one line for each candidate.

    Returns:
        The result; ``result.best.candidate.model`` is the ONNX file.

    Raises:
        BoundNotMetError: nothing passed, the original is best; carries the nearest miss.
        UsageError: the model, rows or wishes do not fit each other.
    """
    wishes = Wishes(
        max_drop=max_drop,
        metric=metric,
        output=output,
        minimize=minimize,
        batches=tuple(batches),
        plan=Plan(ratio=prune, quantize=quantize, recipe=recipe),
        teacher=None if teacher is None else _as_model(teacher),
        student=student,
        require_proof=require_proof,
        seed=seed,
    )
    learn = _as_rows(train)
    if valid is None:
        learn, judge = rows_apart(learn, seed=seed)
    else:
        judge = _as_rows(valid)
    prepared, goal = prepare(_as_model(model), learn, judge, wishes, progress=progress)
    return search(prepared, goal, seed=seed, progress=progress, tell=tell)


# ----- below


def _as_model(model: Model | str | Path) -> Model:
    return read_model(Path(model)) if isinstance(model, str | Path) else model


def _as_rows(rows: Rows | tuple[Array, Array | None] | Mapping[str, Array]) -> Rows:
    if isinstance(rows, Rows):
        return rows
    if isinstance(rows, Mapping):
        inputs = {name: np.asarray(array) for name, array in rows.items() if name != "y"}
        return Rows(inputs, rows.get("y"))
    if isinstance(rows, tuple) and len(rows) == 2:
        x, y = rows
        return Rows({"x": np.asarray(x)}, None if y is None else np.asarray(y))
    raise DataError(f"rows are {type(rows).__name__}, expected (X, y), Rows or arrays by name")


def _data(model: Model, train: Rows, wishes: Wishes, *, progress: bool) -> Data:
    if len(train) == 0:
        raise DataError("there are no rows to learn from")
    teacher = model if wishes.teacher is None else wishes.teacher
    logits = _logits(teacher, train, wishes.output)
    return Data(_inputs_of(model, train), logits, seed=wishes.seed, progress=progress)


def _inputs_of(model: Model, train: Rows) -> Rows:
    """The rows of a network's inputs; one of a student's for another model."""
    if isinstance(model, Network):
        return Rows(train.inputs_for([entry.name for entry in model.inputs]), train.y)
    return Rows({"x": train.x}, train.y)


def _logits(teacher: Model, train: Rows, output: str | None) -> Array:
    """What the teacher's closing Softmax or Sigmoid is fed with, or its numbers."""
    if isinstance(teacher, Network):
        bare = _ending_at_logits(teacher)
        inputs = train.inputs_for([entry.name for entry in bare.inputs])
        return next(iter(bare.predict(inputs).values()))
    session = Session(teacher.SerializeToString(), name="teacher")
    feeds = bind_rows(session, train)
    judge = make_judge(teacher, session, None, output=output)
    answers = judge.answers(session, feeds).astype(np.float32)
    if answers.ndim != 2:
        raise CompressionError(
            f"the teacher answers {answers.shape} in output {judge.output!r}; distillation takes "
            "one row of numbers for each row"
        )
    if ends_in_softmax(teacher, judge.output):
        return np.log(np.maximum(answers, SMALLEST_PROBABILITY))
    if ends_in_sigmoid(teacher, judge.output):
        sure = np.clip(answers, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
        return np.asarray(np.log(sure / (1 - sure)))
    return answers


def _ending_at_logits(network: Network) -> Network:
    """The same network, its output taken ahead of the closing Softmax; shares no array."""
    copy = network.copy()
    return Network(
        copy.inputs,
        copy.nodes,
        {"logits": copy.logits_node},
        task=copy.task,
        class_labels=copy.class_labels,
    )


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


def _student(spec: str, model: Model, train: Rows, wishes: Wishes) -> Network:
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
        seed=wishes.seed,
    )
    return _renamed(network, place)


def _place_of_network(model: Network, train: Rows) -> _Place:
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ConfigError(
            "--student takes the place of models with one input and one output; this one has "
            f"{[entry.name for entry in model.inputs]} and {list(model.outputs)}"
        )
    (entry,) = model.inputs
    if entry.dtype != "float32":
        raise ConfigError(f"--student takes float32; input {entry.name!r} is {entry.dtype}")
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
    if port.dtype != "float32":
        raise ConfigError(f"--student takes float32; input {port.name!r} is {port.dtype}")
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
