"""The validation rows that a network gets most wrong, as a report shows them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlserve.cli.report_measures import Subject
from hlserve.nn.diagnostics import RowResults
from hlserve.report.learning import Example, Picture, WorstExamples
from hlserve.report.outcomes import worst_rows
from hlserve.report.wording import number

Array = NDArray[Any]

MOST_PICTURES, MOST_TABLE_ROWS, MOST_COLUMNS = 24, 12, 12
LARGEST_SIDE = 128  # pixels; larger pictures are thinned out
_CHANNELS = (1, 3)


def worst_examples(
    subject: Subject,
    results: RowResults,
    labels: tuple[str, ...],
    feature_names: tuple[str, ...] | None,
) -> WorstExamples:
    """Highest loss first: as pictures where the only input is an image, else as values."""
    array = next(iter(subject.inputs.values()))
    is_picture = is_image(subject)
    picks = worst_rows(results.losses, MOST_PICTURES if is_picture else MOST_TABLE_ROWS)
    scale = _brightness(array[results.indices]) if is_picture else (0.0, 1.0)
    examples = []
    for position in picks:
        row = int(results.indices[position])
        truth, predicted, probability = _in_words(subject, results, position, labels)
        examples.append(
            Example(
                row=row,
                truth=truth,
                predicted=predicted,
                probability=probability,
                loss=float(results.losses[position]),
                picture=_picture(array[row], *scale) if is_picture else None,
                values=() if is_picture else _first_values(array[row]),
            )
        )
    return WorstExamples(tuple(examples), () if is_picture else _columns(array, feature_names))


def is_image(subject: Subject) -> bool:
    """Whether the only input is a picture in grey or in colour."""
    array = next(iter(subject.inputs.values()))
    return len(subject.inputs) == 1 and array.ndim == 4 and array.shape[1] in _CHANNELS


def _in_words(
    subject: Subject, results: RowResults, position: int, labels: tuple[str, ...]
) -> tuple[str, str, float | None]:
    """Truth, prediction, and the probability given to the truth."""
    wanted = subject.targets[results.indices[position]]
    told = results.outputs[position]
    if subject.kind == "classes":
        return labels[int(wanted)], labels[int(told.argmax())], float(told[int(wanted)])
    if subject.kind == "labels":
        return _names(wanted > 0.5, labels), _names(told > 0.5, labels), None
    return _numbers(wanted), _numbers(told), None


def _names(chosen: Array, labels: tuple[str, ...]) -> str:
    return ", ".join(labels[int(i)] for i in np.flatnonzero(chosen)) or "none"


def _numbers(values: Array) -> str:
    return ", ".join(number(float(v)) for v in np.ravel(values)[:MOST_COLUMNS])


def _first_values(row: Array) -> tuple[float, ...]:
    return tuple(float(v) for v in np.ravel(row)[:MOST_COLUMNS])


def _columns(array: Array, feature_names: tuple[str, ...] | None) -> tuple[str, ...]:
    n = min(MOST_COLUMNS, int(np.prod(array.shape[1:])))
    if feature_names is not None and array.ndim == 2:
        return feature_names[:n]
    return tuple(f"value {i}" for i in range(n))


def _brightness(pixels: Array) -> tuple[float, float]:
    low, high = min(0.0, float(pixels.min())), float(pixels.max())
    return low, high if high > low else low + 1.0


def _picture(pixels: Array, low: float, high: float) -> Picture:
    channels, height, width = pixels.shape
    step = -(-max(height, width) // LARGEST_SIDE)
    grey = (pixels[:, ::step, ::step].astype(np.float64) - low) / (high - low) * 255
    data = np.ascontiguousarray(np.moveaxis(np.rint(grey).clip(0, 255).astype(np.uint8), 0, -1))
    return Picture(data.shape[0], data.shape[1], channels, data.tobytes())
