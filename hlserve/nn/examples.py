"""Rows with their targets, checked once at the border and gathered by index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, final

import numpy as np

from hlserve.errors import ConfigError, DataError
from hlserve.nn.losses import Targets
from hlserve.nn.network import Network
from hlserve.nn.param import Array
from hlserve.nn.split import Indices
from hlserve.nn.workspace import Workspace

LABELS = "labels"  # among named targets: the class labels, which the metric looks at


@final
@dataclass(frozen=True, slots=True)
class Examples:
    """Rows of every input and their targets, first axis first.

    Rows keep their type where the network takes it (pixels stay uint8, a quarter of the
    memory); class labels are int64, other targets of the network's float type.

    Attributes:
        inputs: (rows, ...) by input name, contiguous.
        targets: (rows, ...), or several such by name.
    """

    inputs: dict[str, Array]
    targets: Targets

    @classmethod
    def checked(cls, network: Network, rows: Array | Mapping[str, Array], targets: Targets) -> Self:
        """What fits the network, or an error that says what does not.

        Raises:
            DataError: no rows, lengths that disagree, NaN or infinity, labels out of range.
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
    if network.task == "classification" and name == LABELS and target.ndim == 1:
        return _ready_labels(target, n_outputs, network.class_labels)
    ready = _ready(f"target {name!r}", target, network.dtype)
    if network.task == "regression" and name == LABELS:
        if ready.ndim not in (1, 2) or ready.size != len(ready) * n_outputs:
            raise DataError(f"targets have shape {ready.shape}, expected (rows, {n_outputs})")
        return ready.astype(network.dtype, copy=False).reshape(len(ready), n_outputs)
    return ready


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
