"""Rows with their targets, checked once at the border and gathered by index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Self, final

import numpy as np

from hlserve.errors import ConfigError, DataError
from hlserve.nn.losses import LABELS, WEIGHTS, Targets
from hlserve.nn.network import Network
from hlserve.nn.param import Array
from hlserve.nn.split import Indices
from hlserve.nn.workspace import Workspace


@final
@dataclass(frozen=True, slots=True)
class Examples:
    """Rows of every input and their targets, first axis first.

    Rows keep their type where the network takes it (pixels stay uint8, a quarter of the
    memory); class labels are int64, other targets of the network's float type. Among named
    targets "labels" are what the metric compares with, and "weights", (rows,), say how much
    each row counts in the loss.

    Attributes:
        inputs: (rows, ...) by input name, contiguous.
        targets: (rows, ...), or several such by name.
    """

    inputs: dict[str, Array]
    targets: Targets

    @classmethod
    def checked(
        cls,
        network: Network,
        rows: Array | Mapping[str, Array],
        targets: Targets,
        *,
        is_part: bool = False,
    ) -> Self:
        """What fits the network, or an error that says what does not.

        Of rows that are a part of more, as ``is_part`` says, the weights may all be 0.

        Raises:
            DataError: no rows, lengths that disagree, NaN or infinity, labels out of range,
                weights that are negative or all 0.
        """
        inputs = {
            name: _ready(
                f"input {name!r}",
                array,
                network.dtype,
                takes_missing=network.takes_missing(name),
            )
            for name, array in network.named_rows(rows).items()
        }
        named = targets if isinstance(targets, Mapping) else {LABELS: targets}
        ready = {name: _ready_target(network, name, target) for name, target in named.items()}
        if WEIGHTS in ready and not is_part:
            require_some_weight([ready[WEIGHTS]])
        lengths = {name: len(array) for name, array in {**inputs, **ready}.items()}
        if len(set(lengths.values())) != 1:
            raise DataError(f"rows and targets must be equally many, got {lengths}")
        if not next(iter(lengths.values())):
            raise DataError("there are no rows")
        return cls(inputs, ready if isinstance(targets, Mapping) else ready[LABELS])

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def only_targets(self) -> Array | None:
        """The targets that a metric compares with: the only ones, or those named "labels"."""
        return self.targets.get(LABELS) if isinstance(self.targets, Mapping) else self.targets

    def class_ids(self, network: Network) -> Array | None:
        """The class of every row, (rows,) int64; None where the network tells no classes apart."""
        wanted = self.only_targets
        is_ids = network.task == "classification" and wanted is not None and wanted.ndim == 1
        return wanted if is_ids else None

    def take(self, indices: Indices, buffers: Workspace) -> tuple[dict[str, Array], Targets]:
        """Inputs and targets of these rows, in buffers that the next call uses again."""
        inputs = {
            name: _gather(array, indices, buffers, f"input {name}")
            for name, array in self.inputs.items()
        }
        if not isinstance(self.targets, Mapping):
            return inputs, _gather(self.targets, indices, buffers, "target")
        return inputs, {
            name: _gather(array, indices, buffers, f"target {name}")
            for name, array in self.targets.items()
        }


def require_several_classes(labels: Array, class_labels: tuple[str, ...] | None) -> None:
    """Refuses to train a classifier on rows of one class only."""
    first = int(labels[0])
    if np.all(labels == first):
        named = "" if class_labels is None else f" ({class_labels[first]!r})"
        raise DataError(f"every row has class {first}{named}: there is nothing to tell apart")


def require_some_weight(weights: Iterable[Array]) -> None:
    """Refuses weights of rows, in blocks, that are all 0: nothing would count.

    Raises:
        DataError: none is above 0, though there are some.
    """
    largest = max((float(block.max()) for block in weights if block.size), default=1.0)
    if not largest > 0:
        raise DataError("the weights of all rows are 0, expected one above")


def _gather(array: Array, indices: Indices, buffers: Workspace, key: str) -> Array:
    out = buffers.empty(key, (len(indices), *array.shape[1:]), array.dtype)
    # mode="clip" writes straight into `out`; the default would gather into a copy first.
    return np.take(array, indices, axis=0, out=out, mode="clip")


def _ready(
    name: str, array: Array, dtype: np.dtype[np.generic], *, takes_missing: bool = False
) -> Array:
    if array.dtype.kind not in "fiub":
        raise DataError(f"{name}: dtype is {array.dtype}, expected numbers")
    if array.dtype.kind == "f":
        _require_finite(name, array, takes_missing=takes_missing)
        array = array.astype(dtype, copy=False)
    return np.ascontiguousarray(array)


def _ready_target(network: Network, name: str, target: Array) -> Array:
    target = np.asarray(target)
    n_outputs = _n_outputs(network)
    if name == WEIGHTS:
        return _ready_weights(target, network.dtype)
    if network.task == "classification" and name == LABELS and target.ndim == 1:
        return _ready_labels(target, n_outputs, network.class_labels)
    ready = _ready(f"target {name!r}", target, network.dtype)
    if name != LABELS:
        return ready
    if network.task == "multilabel":
        return _ready_marks(ready, n_outputs).astype(network.dtype, copy=False)
    if network.task == "regression":
        return _ready_numbers(ready, n_outputs).astype(network.dtype, copy=False)
    return ready


def _ready_weights(weights: Array, dtype: np.dtype[np.generic]) -> Array:
    ready = _ready(f"target {WEIGHTS!r}", weights, dtype).astype(dtype, copy=False)
    if ready.ndim != 1:
        raise DataError(f"weights have shape {ready.shape}, expected one a row, (rows,)")
    if ready.size and not ready.min() >= 0:
        row = int(np.argmin(ready))
        raise DataError(f"row {row} has weight {ready[row]:g}, expected none below 0")
    return ready


def _ready_numbers(numbers: Array, n_outputs: int) -> Array:
    columns = prod(numbers.shape[1:])
    # Several outputs may answer one number, as the quantiles of losses.Quantile do.
    if numbers.ndim not in (1, 2) or not columns or n_outputs % columns:
        raise DataError(f"targets have shape {numbers.shape}, expected (rows, {n_outputs})")
    return numbers.reshape(len(numbers), columns)


def _ready_marks(marks: Array, n_labels: int) -> Array:
    if marks.ndim not in (1, 2) or prod(marks.shape[1:]) != n_labels:
        raise DataError(
            f"targets have shape {marks.shape}, expected 0 or 1 for every label, (rows, {n_labels})"
        )
    marks = marks.reshape(len(marks), n_labels)
    wrong = np.flatnonzero(~((marks == 0) | (marks == 1)).all(axis=1))
    if wrong.size:
        raise DataError(
            f"row {wrong[0]} has labels {marks[wrong[0]]}, expected 0 or 1 for every label; "
            f"{wrong.size} rows hold something else"
        )
    return marks


def _ready_labels(labels: Array, n_classes: int, class_labels: tuple[str, ...] | None) -> Array:
    if labels.dtype.kind not in "iub":
        raise DataError(f"class labels have dtype {labels.dtype}, expected integers")
    wrong = np.flatnonzero((labels < 0) | (labels >= n_classes))
    if wrong.size:
        known = "" if class_labels is None else f" ({', '.join(class_labels)})"
        raise DataError(
            f"row {wrong[0]} has class label {labels[wrong[0]]}, expected 0 to "
            f"{n_classes - 1}{known}; {wrong.size} rows are out of range"
        )
    return labels.astype(np.int64)


def _n_outputs(network: Network) -> int:
    shape = network.shapes[network.logits_node]
    if len(shape) != 1:
        raise ConfigError(f"training needs an output of shape (n,), the network's is {shape}")
    return shape[0]


def _require_finite(name: str, array: Array, *, takes_missing: bool) -> None:
    # min and max pass NaN on, and allocate nothing as isfinite over a whole set would.
    if not array.size or (np.isfinite(array.min()) and np.isfinite(array.max())):
        return
    numbers = array.reshape(len(array), -1)
    wrong = np.isinf(numbers) if takes_missing else ~np.isfinite(numbers)
    rows = np.flatnonzero(wrong.any(axis=1))
    if rows.size:
        what = "infinity" if takes_missing else "NaN or infinity"
        raise DataError(f"{name}: row {rows[0]} holds {what}; fill or drop such rows")
