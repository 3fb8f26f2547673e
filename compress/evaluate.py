"""How good a model's answers are on rows: which output counts, by which metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx

from compress.bootstrap import drop_bound, interval
from compress.bound import (
    CONFIDENCE,
    Drop,
    contribution_interval,
    corrected,
    drop,
    mean_interval,
)
from compress.metric import (
    ACCURACY,
    AGREEMENT,
    COSINE,
    LABEL_AGREEMENT,
    MSE,
    Metric,
    PerRow,
    hold_marks,
)
from compress.session import Port, Session
from hlserve.datasets import Rows
from hlserve.errors import ConfigError, DataError
from hlserve.nn.metrics import wilson_interval
from hlserve.nn.param import Array

CHUNK_ELEMENTS = 2**21  # input numbers at a time: keeps memory small for large rows
CHUNK_ROWS = 256

_CLOSINGS = ("Softmax", "LogSoftmax", "Sigmoid")
_HANDS_ON = ("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Cast")


@dataclass(frozen=True, slots=True)
class Judge:
    """What is looked at, and how it is judged.

    Attributes:
        output: the output's name.
        row_axis: its axis that counts the rows; not 0 where a model answers time-major.
        metric: see Metric.
        note: what a reader must know, such as that labels were not used; or empty.
    """

    output: str
    row_axis: int
    metric: Metric
    note: str = ""

    def answers(self, session: Session, feeds: Mapping[str, Array]) -> Array:
        """The judged output for every row, (rows, ...).

        Raises:
            DataError: the model cannot run on these rows or answers NaN.
        """
        n = len(next(iter(feeds.values())))
        fixed = fixed_batch(session)
        widest = max(prod(array.shape[1:]) for array in feeds.values())
        step = fixed or max(1, min(CHUNK_ROWS, CHUNK_ELEMENTS // max(1, widest)))
        parts = []
        for start in range(0, n, step):
            batch = take_rows(feeds, np.arange(start, start + (fixed or min(step, n - start))))
            rows_first = np.moveaxis(session.run(batch)[self.output], self.row_axis, 0)
            parts.append(rows_first[: n - start])
        answers = np.concatenate(parts)
        if np.issubdtype(answers.dtype, np.floating) and np.isnan(answers).any():
            hint = "; it does not fill the gaps (NaN) of these rows" if _have_gaps(feeds) else ""
            raise DataError(f"{session.name}: output {self.output!r} holds NaN{hint}")
        return answers

    def value(self, answers: Array, targets: Array) -> float:
        """The metric over all rows.

        Args:
            answers: of ``answers``, (rows, ...).
            targets: the labels; the original's answers for a metric that needs none.

        Raises:
            DataError: labels and answers do not fit each other, or a function of the user's
                fails on them.
        """
        if self.metric.whole is not None:
            return self.metric.whole(answers, targets)
        return float(np.mean(self.per_row(answers, targets)))

    def drop(self, before: Array, after: Array, targets: Array, *, comparisons: float = 1) -> Drop:
        """How much worse ``after`` is than ``before``, the original's answers to the same rows.

        Args:
            before: the original's answers.
            after: the candidate's.
            targets: see ``value``.
            comparisons: how many candidates one is chosen from, see ``bound.drop``.

        Raises:
            DataError: see ``value``.
        """
        whole = self.metric.whole
        if whole is None:
            return drop(
                self.metric,
                self.per_row(before, targets),
                self.per_row(after, targets),
                comparisons=comparisons,
                row_cost=self.row_cost(before, targets),
            )
        sign = 1.0 if self.metric.higher_is_better else -1.0
        level = corrected(CONFIDENCE, comparisons)
        upper = drop_bound(whole, before, after, targets, sign=sign, confidence=level)
        estimate = sign * (whole(before, targets) - whole(after, targets))
        return Drop(estimate, upper, len(targets), CONFIDENCE, comparisons)

    def interval(self, answers: Array, targets: Array) -> tuple[float, float]:
        """Where the metric lies for all such rows, two-sided at 95 %.

        Wilson's interval for shares, also for F1 and ROC AUC; Student's for other means; the
        bootstrap's for a function of the user's. Infinite where there are too few rows.
        """
        if self.metric.whole is not None:
            return interval(self.metric.whole, answers, targets, confidence=CONFIDENCE)
        values = self.per_row(answers, targets)
        cost = self.row_cost(answers, targets)
        if cost is not None:
            return contribution_interval(values, cost)
        is_whole = bool(np.all((values == 0) | (values == 1))) and len(values) > 0
        if self.metric.is_share and is_whole:
            return wilson_interval(int(values.sum()), len(values))
        return mean_interval(values)

    def smallest_provable(
        self, before: Array, targets: Array, *, comparisons: float = 1
    ) -> float | None:
        """The bound of a candidate that answers just as ``before``; None where it depends.

        No smaller drop can be proven with these rows, however good the candidate.
        """
        if self.metric.limits is None and self.metric.whole is None:
            return None
        return self.drop(before, before, targets, comparisons=comparisons).upper

    def per_row(self, answers: Array, targets: Array) -> PerRow:
        """One value a row, whose mean is the metric; of F1 and ROC AUC to first order.

        One label a row counts for all its positions.

        Raises:
            ConfigError: the metric is a function of the user's, which has none.
            DataError: see ``value``.
        """
        return self.metric.per_row(answers, self._fitted(answers, targets))

    def row_cost(self, answers: Array, targets: Array) -> float | None:
        """What one spoilt row may cost, which bounds of F1 and ROC AUC need; else None."""
        if self.metric.row_cost is None:
            return None
        return self.metric.row_cost(answers, self._fitted(answers, targets))

    def _fitted(self, answers: Array, targets: Array) -> Array:
        """The targets, checked; a label for every position where a row has one for all."""
        if not self.metric.is_of_classes:
            return targets
        _require_labels(self.output, answers, targets)
        if targets.ndim == 1 and answers.ndim > 2:
            return np.repeat(targets[:, None], prod(answers.shape[1:-1]), axis=1)
        return targets


def make_judge(
    model: onnx.ModelProto,
    session: Session,
    labels: Array | None,
    *,
    metric: Metric | None = None,
    output: str | None = None,
) -> Judge:
    """Chooses what is judged, unless told.

    The output is the first that holds class scores (it ends in a Softmax, or has rows of two or
    more numbers), else the first of floats. With labels the metric is accuracy for whole
    numbers, of every label where a row has several, and the squared error for others; without,
    agreement with the original's top class, with each of its labels where several outputs close
    with a Sigmoid, or the cosine where the output is no class scores.

    Raises:
        ConfigError: there is no such output, or the metric needs labels.
    """
    name = output or _default_output(model, session)
    port = next((p for p in session.outputs if p.name == name), None)
    if port is None:
        known = ", ".join(p.name for p in session.outputs)
        raise ConfigError(f"no output {name!r}; the model has {known}")
    has_classes = _holds_classes(model, port)
    agreement = LABEL_AGREEMENT if _answers_labels(model, port) else AGREEMENT
    chosen, note = _default_metric(labels, agreement if has_classes else COSINE)
    if metric is not None:
        chosen, note = metric, ""
        if metric.needs_labels and labels is None:
            raise ConfigError(f"--metric {metric.name} needs labels, and the rows have none")
    return Judge(name, _row_axis(session, port), chosen, note)


def bind_rows(session: Session, rows: Rows) -> dict[str, Array]:
    """The rows as the model takes them: by name, in its types, reshaped where sizes agree.

    Raises:
        DataError: an input is missing, or a shape or type does not fit; says what is needed.
    """
    arrays = dict(rows.inputs)
    if len(arrays) == len(session.inputs) == 1:
        arrays = {session.inputs[0].name: next(iter(arrays.values()))}
    missing = [p for p in session.inputs if p.name not in arrays]
    if missing:
        wanted = ", ".join(f"{p.name!r} ({p.dtype}, {_shape(p)})" for p in session.inputs)
        raise DataError(
            f"{session.name} takes {wanted}; the rows hold {', '.join(map(repr, arrays))}. "
            "Save an NPZ file with one array for each input, named like it, rows first"
        )
    return {port.name: _bound(session.name, arrays[port.name], port) for port in session.inputs}


def take_rows(feeds: Mapping[str, Array], indices: Array) -> dict[str, Array]:
    """Rows by number, counted round: more rows than there are repeat from the first."""
    return {name: array[indices % len(array)] for name, array in feeds.items()}


def fixed_batch(session: Session) -> int | None:
    """The only batch size that the model takes; None where it is free."""
    sizes = {p.shape[0] for p in session.inputs if p.shape and isinstance(p.shape[0], int)}
    return next(iter(sizes)) if len(sizes) == 1 else None


def require_classes(
    output: str,
    labels: Array,
    n_classes: int | None,
    *,
    where: str = "",
    name_row: Callable[[int], str] = "row {}".format,
) -> None:
    """Refuses labels that are no classes of an output that tells ``n_classes`` apart, or any.

    Args:
        output: whose classes they should be.
        labels: of the rows.
        n_classes: how many there are; None where any number of them may be.
        where: what the message starts with.
        name_row: what the message calls a row.

    Raises:
        DataError: names the first such row.
    """
    most = np.inf if n_classes is None else n_classes - 1
    if not labels.size or (labels.min() >= 0 and labels.max() <= most):
        return
    is_wrong = (labels < 0) | (labels > most)
    row = int(np.argmax(is_wrong.reshape(len(labels), -1).any(axis=1)))
    wrong = labels[row].flat[np.argmax(is_wrong[row])] if labels.ndim > 1 else labels[row]
    told = "classes count from 0"
    if n_classes is not None:
        told = f"output {output!r} tells {n_classes} classes apart, 0 to {n_classes - 1}"
        if labels.min() == 1 and labels.max() == n_classes:
            told += "; these labels seem to count from 1"
    raise DataError(f"{where}label {wrong} does not fit, in {name_row(row)}: {told}")


def ends_in_softmax(model: onnx.ModelProto, output: str) -> bool:
    """Whether an output holds probabilities of a closing Softmax."""
    return _closing(model, output) == "Softmax"


def ends_in_sigmoid(model: onnx.ModelProto, output: str) -> bool:
    """Whether an output holds probabilities of a closing Sigmoid, each by itself."""
    return _closing(model, output) == "Sigmoid"


# ----- below


def _have_gaps(feeds: Mapping[str, Array]) -> bool:
    return any(array.dtype.kind == "f" and np.isnan(array).any() for array in feeds.values())


def _default_output(model: onnx.ModelProto, session: Session) -> str:
    floats = [p for p in session.outputs if p.dtype.startswith("float")]
    closed = [p.name for p in floats if _closing(model, p.name) in _CLOSINGS]
    wide = [p.name for p in floats if _holds_classes(model, p)]
    candidates = closed + wide + [p.name for p in floats] + [p.name for p in session.outputs]
    return candidates[0]


def _default_metric(labels: Array | None, without: Metric) -> tuple[Metric, str]:
    if labels is not None and np.issubdtype(labels.dtype, np.floating):
        return MSE, ""
    if labels is not None and without is not COSINE:
        return ACCURACY, ""
    note = "no labels: compared with the original's own answers"
    if labels is not None:
        note = "labels not used, no output holds class scores: " + note.partition(": ")[2]
    return without, note


def _answers_labels(model: onnx.ModelProto, port: Port) -> bool:
    return ends_in_sigmoid(model, port.name) and len(port.shape) == 2 and port.shape[1] != 1


def _holds_classes(model: onnx.ModelProto, port: Port) -> bool:
    if not port.dtype.startswith("float"):
        return len(port.shape) <= 1 or port.dtype != "bool"
    if _closing(model, port.name) in _CLOSINGS:
        return True
    return len(port.shape) == 2 and port.shape[1] != 1


def _closing(model: onnx.ModelProto, output: str) -> str:
    """The operator that makes an output, seen through those that only hand numbers on."""
    makers = {name: node for node in model.graph.node for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type in _HANDS_ON:
        node = makers.get(node.input[0])
    return "" if node is None else str(node.op_type)


def _row_axis(session: Session, port: Port) -> int:
    """The axis named like the first axis of an input; 0 where names do not tell."""
    names = [p.shape[0] for p in session.inputs if p.shape and isinstance(p.shape[0], str)]
    for name in names:
        if name in port.shape:
            return port.shape.index(name)
    return 0


def _bound(model: str, array: Array, port: Port) -> Array:
    want = np.dtype(port.dtype)
    is_safe = np.can_cast(array.dtype, want, "same_kind") or (
        want.kind == "f" and array.dtype.kind in "biu"
    )
    if not is_safe:
        raise DataError(f"{model}: input {port.name!r} takes {want}, the rows are {array.dtype}")
    inner = port.shape[1:]
    fits = array.ndim == len(port.shape) and all(
        not isinstance(size, int) or size == actual
        for size, actual in zip(inner, array.shape[1:], strict=True)
    )
    if not fits:
        sizes = [size for size in inner if isinstance(size, int)]
        if len(sizes) != len(inner) or prod(sizes) != prod(array.shape[1:]):
            raise DataError(
                f"{model}: input {port.name!r} takes {_shape(port)}, the rows have shape "
                f"{array.shape}"
            )
        array = array.reshape(len(array), *sizes)
    return np.ascontiguousarray(array.astype(want, copy=False))


def _require_labels(output: str, answers: Array, labels: Array) -> None:
    n_classes = answers.shape[-1] if answers.ndim > 1 else 2
    n_classes = 2 if hold_marks(answers, labels) else max(2, n_classes)
    is_scores = np.issubdtype(answers.dtype, np.floating)
    require_classes(output, labels, n_classes if is_scores else None)


def _shape(port: Port) -> str:
    return "(" + ", ".join(str(size) for size in port.shape) + ")"
