"""Whether rows can say anything about a model, found out before any long work.

What makes a figure impossible is an error; what only makes it doubtful, such as labels on which
the original is no better than chance, is told of.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from compress.evaluate import Judge, require_classes
from compress.metric import ACCURACY, F1, MAE, MSE, ROC_AUC, Metric, hold_marks, top_class
from compress.session import Session
from compress.splits import NOWHERE, Place, Split
from hlserve.datasets import Rows
from hlserve.errors import DataError
from hlserve.nn.param import Array
from hlserve.row_blocks import row_blocks

_FILLS_GAPS = (
    "IsNaN",
    "Imputer",
    "TreeEnsemble",
    "TreeEnsembleClassifier",
    "TreeEnsembleRegressor",
)
_NAMED_CLASSES = 5  # more are counted


def takes_gaps(model: onnx.ModelProto) -> bool:
    """Whether a graph does something about missing values (NaN) in its inputs."""
    functions = [node for function in model.functions for node in function.node]
    return any(node.op_type in _FILLS_GAPS for node in (*model.graph.node, *functions))


def require_sound(split: Split, judge: Judge, session: Session, *, has_gaps: bool) -> None:
    """``require_sane`` of all rows: to judge with, to learn from, and for the last look.

    Raises:
        DataError: see ``require_sane``.
    """
    parts = [
        ("rows to judge with", split.search, split.search_place),
        ("rows to learn from", split.train, split.train_place),
    ]
    if split.test is not None:
        parts.append(("rows for the last look", split.test, split.test_place))
    for n, (where, rows, place) in enumerate(parts):
        require_sane(
            rows, judge, session, has_gaps=has_gaps, where=where, place=place, judges=n == 0
        )


def require_sane(
    rows: Rows,
    judge: Judge,
    session: Session,
    *,
    has_gaps: bool,
    where: str,
    place: Place = NOWHERE,
    judges: bool = True,
) -> None:
    """Refuses rows that cannot be run, or whose labels cannot be compared with the answers.

    One class only is refused for F1 and ROC AUC, which are not defined then; for accuracy it is
    a warning of ``warnings_about``.

    Args:
        rows: as they came.
        judge: which output is judged, by which metric.
        session: the original.
        has_gaps: whether the model takes NaN, see ``takes_gaps``.
        where: what the message calls the rows.
        place: where they stand in what the user gave.
        judges: False for rows that are only learned from, which may be of one class.

    Raises:
        DataError: no rows, NaN or infinity, or labels that do not fit; names the first row.
    """
    if len(rows) == 0:
        raise DataError(f"{where}: there are no rows")
    for name, array in rows.inputs.items():
        _require_numbers(array, f"{where}: input {name!r}", place, has_gaps=has_gaps)
    if rows.y is not None and judge.metric.needs_labels:
        _require_labels(rows.y, judge, session, where, place)
        if judges:
            _require_two_classes(rows.y, judge.metric, where)


def require_finite_answers(judge: Judge, answers: Array, place: Place = NOWHERE) -> None:
    """Refuses an original whose numbers are infinite, for a metric that reckons with them.

    NaN is refused by ``Judge.answers``.

    Raises:
        DataError: names the first such row.
    """
    if judge.metric.is_of_classes or answers.dtype.kind != "f":
        return
    row = _first(~np.isfinite(answers))
    if row is not None:
        raise DataError(
            f"the original answers {place.row(row)} with an infinite number in output "
            f"{judge.output!r}; {judge.metric.name} cannot be compared there"
        )


def warnings_about(judge: Judge, answers: Array, labels: Array | None) -> list[str]:
    """What makes the original's figures doubtful, a sentence each.

    Args:
        judge: which output is judged, by which metric.
        answers: the original's.
        labels: of the rows, checked by ``require_sane``.
    """
    if labels is None or not judge.metric.needs_labels:
        return []
    return [*_about_classes(judge, answers, labels), *_about_chance(judge, answers, labels)]


# ----- below: what is refused


def _require_numbers(array: Array, where: str, place: Place, *, has_gaps: bool) -> None:
    if array.dtype.kind != "f":
        return
    for first, block in row_blocks(array):
        if np.isfinite(block).all():
            continue
        row = _first(np.isnan(block))
        if row is not None and not has_gaps:
            raise DataError(
                f"{where}: {place.row(first + row)} holds NaN, and the model does not fill gaps; "
                "fill them, or leave such rows out"
            )
        row = _first(np.isinf(block))
        if row is not None and not _is_additive_mask(block):
            raise DataError(
                f"{where}: {place.row(first + row)} holds infinity, expected finite numbers"
            )


def _is_additive_mask(block: Array) -> bool:
    """Whether it is what attention adds to its scores: 0 where one may look, else -infinity."""
    return bool(np.all((block == 0) | (block == -np.inf)))


def _require_labels(
    labels: Array, judge: Judge, session: Session, where: str, place: Place
) -> None:
    if labels.dtype.kind not in "iubf":
        raise DataError(
            f"{where}: labels are {labels.dtype}, expected numbers; give each class a number from 0"
        )
    if labels.dtype.kind == "f":
        row = _first(~np.isfinite(labels))
        if row is not None:
            raise DataError(f"{where}: the label of {place.row(row)} is NaN or infinite")
    if not judge.metric.is_of_classes:
        return
    if labels.dtype.kind == "f":
        raise DataError(
            f"{where}: labels are {labels.dtype}, and {judge.metric.name} compares classes, which "
            "are whole numbers from 0; convert them, or take --metric mse or mae"
        )
    n_classes = _n_classes(judge, session, labels)
    require_classes(judge.output, labels, n_classes, where=f"{where}: ", name_row=place.row)


def _n_classes(judge: Judge, session: Session, labels: Array) -> int | None:
    """How many classes the output tells apart, where its shape says so."""
    port = next(p for p in session.outputs if p.name == judge.output)
    if not port.dtype.startswith("float"):
        return None
    if len(port.shape) < 2 or port.shape[-1] == 1:
        return 2
    width = port.shape[-1]
    are_marks = labels.ndim == len(port.shape) and labels.shape[-1] == width
    return 2 if are_marks else width if isinstance(width, int) else None


def _require_two_classes(labels: Array, metric: Metric, where: str) -> None:
    if metric not in (F1, ROC_AUC) or labels.ndim > 1:
        return
    if labels.min() == labels.max():
        raise DataError(
            f"{where}: all {len(labels):,} labels are class {labels.flat[0]}; {metric.name} needs "
            "two classes at least"
        )


# ----- below: what is told of


def _about_classes(judge: Judge, answers: Array, labels: Array) -> Iterator[str]:
    are_scores = answers.ndim == 2 and answers.shape[1] > 1 and answers.dtype.kind == "f"
    if not judge.metric.is_of_classes or labels.ndim > 1:
        return
    seen = np.unique(labels)
    if len(seen) == 1:
        yield (
            f"WARNING: all {len(labels):,} labels are class {seen[0]}: a model that answers "
            "nothing else would seem perfect."
        )
    elif are_scores and len(seen) < answers.shape[1]:
        absent = np.setdiff1d(np.arange(answers.shape[1]), seen)
        named = ", ".join(map(str, absent[:_NAMED_CLASSES]))
        more = ", ..." if len(absent) > _NAMED_CLASSES else ""
        yield (
            f"the labels hold {len(seen)} of the {answers.shape[1]} classes that output "
            f"{judge.output!r} tells apart: nothing is known of class {named}{more}."
        )


def _about_chance(judge: Judge, answers: Array, labels: Array) -> Iterator[str]:
    chance = _chance(judge.metric, answers, labels)
    if chance is None:
        return
    value, how = judge.value(answers, labels), "a constant answer"
    if judge.metric.higher_is_better:
        how = "ranking by lot" if judge.metric is ROC_AUC else "the best constant answer"
        is_better = judge.interval(answers, labels)[0] > chance
    else:
        is_better = value < chance
    if is_better or (judge.metric.is_of_classes and np.ptp(labels) == 0):
        return
    yield (
        f"WARNING: on these labels the original is no better than chance: {judge.metric.name} is "
        f"{value:.4g}, {how} reaches {chance:.4g}. Are the labels those of these rows, and the "
        f"inputs scaled as the model was trained?{_renumbering(judge, answers, labels)}"
    )


def _chance(metric: Metric, answers: Array, labels: Array) -> float | None:
    """What is reached without looking at the inputs; None where that is not known."""
    if metric is ROC_AUC:
        return 0.5
    if metric in (MSE, MAE):
        numbers = labels.reshape(len(labels), -1).astype(np.float64)
        centre = np.mean(numbers, axis=0) if metric is MSE else np.median(numbers, axis=0)
        away = np.abs(numbers - centre)
        return float(np.mean(np.square(away) if metric is MSE else away))
    if metric not in (ACCURACY, F1):
        return None
    if hold_marks(answers, labels) and labels.ndim > 1:
        set_share = np.mean(labels != 0, axis=0)
        constant = np.maximum(set_share, 1 - set_share)
        return float(np.mean(constant if metric is ACCURACY else _f1_of_constant(set_share)))
    shares = np.unique(labels, return_counts=True)[1] / labels.size
    if metric is ACCURACY:
        return float(shares.max())
    if answers.ndim == 1 or answers.shape[-1] <= 2:
        return float(_f1_of_constant(np.mean(labels == 1)))
    # Guessing by lot gives every class an F1 of its share, in the mean one of as many classes.
    return max(float(_f1_of_constant(shares.max())), 1.0) / len(shares)


def _f1_of_constant(share: Array | np.floating) -> Array:
    """F1 of a class that every row is said to be of, and a share of them is."""
    return np.asarray(2 * share / (1 + share))


def _renumbering(judge: Judge, answers: Array, labels: Array) -> str:
    """A hint where the classes seem to be numbered otherwise; else empty."""
    if judge.metric not in (ACCURACY, F1) or labels.ndim > 1 or answers.ndim > 2:
        return ""
    said = top_class(answers).reshape(-1)
    table = np.zeros((int(said.max()) + 1, int(labels.max()) + 1))
    np.add.at(table, (said, labels.astype(np.int64)), 1)
    chance = table.sum(axis=0).max() / len(labels)
    matched = table.max(axis=1).sum() / len(labels)
    is_one_to_one = len(set(table.argmax(axis=1)[table.sum(axis=1) > 0])) > 1
    if not is_one_to_one or matched < chance + (1 - chance) / 2:
        return ""
    return (
        f" With its classes numbered otherwise it would be right on {100 * matched:.0f} %: the "
        "order of the classes differs."
    )


def _first(is_wrong: Array) -> int | None:
    """The first row that holds a True; None where none does."""
    found = np.flatnonzero(is_wrong.reshape(len(is_wrong), -1).any(axis=1))
    return int(found[0]) if found.size else None
