"""A model's output arrays to what it says to each instance: labels, probabilities, values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlserve.repository import Metadata

Array = NDArray[Any]

# How the exporter names the output that holds a probability a class.
PROBABILITIES = "probabilities"
_IS_LIKELY = 0.5


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a model says to one instance; which fields are filled depends on its task.

    Attributes:
        label: classification: the most probable class.
        probability: its probability.
        probabilities: classification and multilabel: by label, in the model's order.
        labels: multilabel: those of a probability of at least one half.
        values: regression: the predicted numbers.
        outputs: where the task is not known: an instance's part of every output.
    """

    label: str = ""
    probability: float = 0.0
    probabilities: Mapping[str, float] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    values: tuple[float, ...] = ()
    outputs: Mapping[str, Array] = field(default_factory=dict)


def predicted(outputs: Mapping[str, Array], metadata: Metadata | None) -> Predicted:
    """One instance's answer.

    Args:
        outputs: an instance's part of every output, without the row.
        metadata: what the version says it is; None where it says nothing.
    """
    if metadata is None or metadata.task is None:
        return Predicted(outputs=outputs)
    if metadata.task == "regression":
        return Predicted(values=tuple(next(iter(outputs.values())).ravel().tolist()))
    scores = _scores(outputs, metadata.class_labels)
    if scores is None:
        return Predicted(outputs=outputs)
    if metadata.task == "multilabel":
        by_label = dict(zip(_labels(metadata, len(scores)), scores.tolist(), strict=True))
        likely = tuple(label for label, value in by_label.items() if value >= _IS_LIKELY)
        return Predicted(probabilities=by_label, labels=likely)
    if len(scores) == 1:  # one sigmoid: of the second class
        scores = np.array([1 - scores[0], scores[0]])
    by_label = dict(zip(_labels(metadata, len(scores)), scores.tolist(), strict=True))
    best = max(by_label, key=by_label.__getitem__)
    return Predicted(label=best, probability=by_label[best], probabilities=by_label)


def instance_outputs(outputs: Mapping[str, Array], rows: int) -> list[dict[str, Array]]:
    """The outputs taken apart: one mapping a row."""
    return [{name: array[row] for name, array in outputs.items()} for row in range(rows)]


def only_row(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of a run for one instance; a leading dimension of one is its row."""
    return {
        name: array[0] if array.ndim and len(array) == 1 else array
        for name, array in outputs.items()
    }


# ----- below


def _scores(outputs: Mapping[str, Array], labels: Sequence[str] | None) -> Array | None:
    """The output with a number a class, float64; None if there is none."""
    named = outputs.get(PROBABILITIES)
    candidates = [named] if named is not None else list(outputs.values())
    for array in candidates:
        if array.ndim == 1 and array.dtype.kind == "f" and _fits(len(array), labels):
            return array.astype(np.float64)
    return None


def _fits(count: int, labels: Sequence[str] | None) -> bool:
    return count > 0 and (labels is None or count == len(labels) or (count, len(labels)) == (1, 2))


def _labels(metadata: Metadata, count: int) -> Sequence[str]:
    labels = metadata.class_labels
    if labels is None or len(set(labels)) != count:  # two classes of one name: by their index
        return [str(index) for index in range(count)]
    return labels
