"""The Prediction service from Python: plain values to messages, and messages to plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlserve.errors import DataError, ServerError
from hlserve.pb.messages import prediction

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says to one instance; which fields are filled depends on its task.

    Attributes:
        label: classification: the most probable class.
        probability: its probability.
        probabilities: classification and multilabel: by label, the most probable first.
        labels: multilabel: those of a probability of at least one half.
        values: regression: the predicted numbers.
        outputs: where the task is not known: arrays by output name, without the row.
    """

    label: str = ""
    probability: float = 0.0
    probabilities: Mapping[str, float] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    values: tuple[float, ...] = ()
    outputs: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PredictResult:
    """One answer.

    Attributes:
        predictions: one an instance, in their order.
        model_name: the model that answered.
        model_version: the version that answered.
        request_id: as it was sent.
        total_us: microseconds in the server.
        queue_us: waiting for the run; None where the server does not know.
        compute_us: the run; None where the server does not know.
    """

    predictions: tuple[Prediction, ...]
    model_name: str
    model_version: str
    request_id: str
    total_us: int
    queue_us: int | None = None
    compute_us: int | None = None


def predict_request(
    model: str, version: str, instances: Sequence[Any], request_id: str
) -> prediction.PredictRequest:
    """The message for things to predict.

    Args:
        model: its name.
        version: empty: the latest.
        instances: each a text; ``bytes`` or a path: a file's content; a mapping of cells (numbers,
            texts, None) by column name, or of arrays by input name; or numbers, nested or not.
        request_id: comes back in the answer.

    Raises:
        DataError: one of them is none of these, or its file cannot be read.
    """
    if isinstance(instances, str | bytes | Mapping):
        raise DataError(
            f"instances is one {type(instances).__name__}, expected a list of them: [instance]"
        )
    return prediction.PredictRequest(
        model=model,
        version=version,
        id=request_id,
        instances=[_instance(number, each) for number, each in enumerate(instances)],
    )


def predict_result(response: prediction.PredictResponse) -> PredictResult:
    """What a server answered."""
    timing = response.timing
    return PredictResult(
        predictions=tuple(_prediction(each) for each in response.predictions),
        model_name=response.model,
        model_version=response.version,
        request_id=response.id,
        total_us=timing.total_us,
        queue_us=timing.queue_us if timing.HasField("queue_us") else None,
        compute_us=timing.compute_us if timing.HasField("compute_us") else None,
    )


def stream_result(response: prediction.PredictStreamResponse) -> PredictResult | ServerError:
    """One answer of a stream; an error is one too."""
    if response.HasField("error"):
        return ServerError(response.error.status, response.error.message)
    return predict_result(response.response)


# ----- below


def _instance(number: int, value: Any) -> prediction.Instance:
    if isinstance(value, str):
        return prediction.Instance(text=value)
    if isinstance(value, Path):
        return prediction.Instance(blob=_content(number, value))
    if isinstance(value, bytes | bytearray | memoryview):
        return prediction.Instance(blob=bytes(value))
    if not isinstance(value, Mapping):
        return prediction.Instance(numbers=_numbers(f"instance {number}", value))
    if all(cell is None or isinstance(cell, str) or np.ndim(cell) == 0 for cell in value.values()):
        return _cells(number, value)
    named = {
        name: _numbers(f"instance {number}, input {name!r}", array) for name, array in value.items()
    }
    return prediction.Instance(inputs=prediction.Inputs(by_name=named))


def _cells(number: int, cells: Mapping[str, Any]) -> prediction.Instance:
    instance = prediction.Instance()
    instance.fields.SetInParent()  # a row without cells is a row
    for name, cell in cells.items():
        plain = cell.item() if isinstance(cell, np.generic) else cell
        try:
            instance.fields.update({name: plain})
        except ValueError as error:
            raise DataError(
                f"instance {number}, field {name!r} is {plain!r}, expected a number, a text or None"
            ) from error
    return instance


def _numbers(where: str, value: Any) -> prediction.Numbers:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{where} is {type(value).__name__}, expected a text, bytes, a path, a mapping or "
            f"numbers: {error}"
        ) from error
    # A flat list takes the model's shape; what is nested says its own.
    shape = array.shape if array.ndim > 1 else ()
    return prediction.Numbers(values=array.ravel(), shape=shape)


def _content(number: int, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"instance {number}: cannot read {path}: {error.strerror}") from error


def _prediction(message: prediction.Predicted) -> Prediction:
    by_label = sorted(message.probabilities.items(), key=lambda item: (-item[1], item[0]))
    return Prediction(
        label=message.label,
        probability=message.probability,
        probabilities=dict(by_label),
        labels=tuple(message.labels),
        values=tuple(message.values),
        outputs={name: _array(values) for name, values in sorted(message.outputs.items())},
    )


def _array(values: prediction.Values) -> Array:
    if values.texts:
        elements = np.empty(len(values.texts), dtype=object)
        elements[:] = list(values.texts)
        return elements.reshape(tuple(values.shape))
    return np.array(values.numbers, dtype=np.float64).reshape(tuple(values.shape))
