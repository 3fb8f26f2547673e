"""The Prediction service, message in and message out: protobuf meets ``DataPlane.predict``."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlserve.errors import HlserveError, InvalidRequestError
from hlserve.pb.messages import prediction
from hlserve.serving.call_record import CallRecord
from hlserve.serving.dataplane import DataPlane
from hlserve.serving.instances import Cells, Instance, NamedNumbers, Numbers
from hlserve.serving.predicted import Predicted
from hlserve.serving.prediction import MAX_INSTANCES, PredictRequest, PredictResponse
from hlserve.serving.transports.status import details_of, status_of

Array = NDArray[Any]

_NS_PER_US = 1000
_MAX_NAMES = 10_000  # inputs or fields of one instance


async def predict(
    data_plane: DataPlane,
    request: prediction.PredictRequest,
    deadline_s: float | None,
    record: CallRecord,
) -> prediction.PredictResponse:
    """Answers one request and notes it; raises as ``DataPlane.predict``."""
    record.asks(request.model, request.version, request.id)
    try:
        _check_count("instances", len(request.instances), MAX_INSTANCES)
        instances = [_instance(n, each) for n, each in enumerate(request.instances)]
    except InvalidRequestError as error:
        raise InvalidRequestError(f"model {request.model!r}: {error}") from error
    answer = await data_plane.predict(
        PredictRequest(
            model_name=request.model,
            model_version=request.version,
            request_id=request.id,
            instances=instances,
            deadline_s=deadline_s,
        )
    )
    record.version, record.phases = answer.model_version, answer.phases
    record.rows += len(answer.predictions)
    record.answered_ns = time.time_ns()
    return _response(answer)


async def predict_or_error(
    data_plane: DataPlane,
    request: prediction.PredictRequest,
    deadline_s: float | None,
    record: CallRecord,
) -> prediction.PredictStreamResponse:
    """Answers one request of a stream; an error that we raise on purpose is an answer too."""
    try:
        answer = await predict(data_plane, request, deadline_s, record)
    except HlserveError as error:
        return prediction.PredictStreamResponse(
            error=prediction.PredictError(
                status=status_of(error), message=details_of(error), id=request.id
            )
        )
    return prediction.PredictStreamResponse(response=answer)


# ----- in


def _instance(number: int, message: prediction.Instance) -> Instance | None:
    kind = message.WhichOneof("kind")
    if kind == "numbers":
        return _numbers(message.numbers)
    if kind == "inputs":
        _check_count(f"inputs of instance {number}", len(message.inputs.by_name), _MAX_NAMES)
        return NamedNumbers({n: _numbers(each) for n, each in message.inputs.by_name.items()})
    if kind == "fields":
        cells = message.fields.fields
        _check_count(f"fields of instance {number}", len(cells), _MAX_NAMES)
        return Cells({name: _cell(number, name, value) for name, value in cells.items()})
    if kind == "text":
        return message.text
    return message.blob if kind == "blob" else None


def _check_count(what: str, count: int, most: int) -> None:
    """Before each becomes a Python object, on the event loop."""
    if count > most:
        raise InvalidRequestError(f"{count} {what} came, expected at most {most}")


def _numbers(message: prediction.Numbers) -> Numbers:
    return Numbers(np.array(message.values, dtype=np.float64), tuple(message.shape))


def _cell(number: int, name: str, value: Any) -> float | str | bool | None:
    """A cell; what is missing is null and not NaN, which JSON cannot spell."""
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        if not math.isfinite(value.number_value):
            raise InvalidRequestError(
                f"instance {number}, field {name!r} is {value.number_value}, expected a finite "
                "number, or null where it is missing"
            )
        return float(value.number_value)
    if kind == "string_value":
        return str(value.string_value)
    if kind == "bool_value":
        return bool(value.bool_value)
    if kind == "null_value" or kind is None:
        return None
    raise InvalidRequestError(
        f"instance {number}, field {name!r} is a {kind.removesuffix('_value')}, expected a number, "
        "a text or null"
    )


# ----- out


def _response(answer: PredictResponse) -> prediction.PredictResponse:
    response = prediction.PredictResponse(
        model=answer.model_name,
        version=answer.model_version,
        id=answer.request_id,
        predictions=[_predicted(each) for each in answer.predictions],
    )
    response.timing.total_us = answer.total_ns // _NS_PER_US
    if answer.phases is not None:
        response.timing.queue_us = answer.phases.queue_ns // _NS_PER_US
        response.timing.compute_us = answer.phases.compute_infer_ns // _NS_PER_US
    return response


def _predicted(answer: Predicted) -> prediction.Predicted:
    message = prediction.Predicted(
        label=answer.label,
        probability=answer.probability,
        probabilities=answer.probabilities,
        labels=answer.labels,
        values=answer.values,
    )
    for name, array in answer.outputs.items():
        message.outputs[name].CopyFrom(_values(array))
    return message


def _values(array: Array) -> prediction.Values:
    flat = array.ravel().tolist()
    if array.dtype.kind == "O":
        texts = [text.encode() if isinstance(text, str) else text for text in flat]
        return prediction.Values(texts=texts, shape=array.shape)
    return prediction.Values(numbers=flat, shape=array.shape)
