"""Predictor: things in, labels and numbers out, around whatever runs a request.

What does the work stands in ``instances`` (things to arrays) and ``predicted`` (arrays to answers).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from numpy.typing import NDArray

from hlserve.codec import MAX_MESSAGE_BYTES
from hlserve.errors import DeadlineExceededError, InvalidRequestError
from hlserve.frontend import FrontEnd, from_json
from hlserve.repository import Metadata
from hlserve.serving.instances import (
    Cells,
    Instance,
    NamedNumbers,
    Numbers,
    front_end_inputs,
    kind_of,
    numeric_inputs,
    text_inputs,
)
from hlserve.serving.model import ServedModel
from hlserve.serving.predicted import Predicted, instance_outputs, only_row, predicted
from hlserve.serving.request import InferRequest, InferResponse
from hlserve.serving.statistics import Phases

Array = NDArray[Any]
Run = Callable[[InferRequest], Awaitable[InferResponse]]

MAX_INSTANCES = 4096  # of one request


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """What a caller asks.

    Attributes:
        model_name: which model.
        instances: of one kind; None where one holds nothing.
        model_version: as written by the caller; empty: the latest.
        request_id: comes back unchanged.
        deadline_s: on the event loop's clock; None: the caller waits for ever.
    """

    model_name: str
    instances: Sequence[Instance | None]
    model_version: str = ""
    request_id: str = ""
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class PredictResponse:
    """The answer, and how long it took.

    Attributes:
        model_name: the model that answered.
        model_version: the version that answered.
        request_id: as it came.
        predictions: one an instance, in their order.
        total_ns: from the request to this answer.
        phases: of the longest run; None where they are not known.
    """

    model_name: str
    model_version: str
    request_id: str
    predictions: tuple[Predicted, ...]
    total_ns: int
    phases: Phases | None = None


class Predictor:
    """Keeps the front ends it has read: a vocabulary of megabytes is not parsed at each call.

    Args:
        max_elements: of one input that is made of a request's instances.
    """

    def __init__(self, max_elements: int = MAX_MESSAGE_BYTES) -> None:
        self._max_elements = max_elements
        self._front_ends: dict[tuple[str, int], tuple[Metadata, FrontEnd]] = {}

    async def predict(
        self, model: ServedModel, request: PredictRequest, run: Run
    ) -> PredictResponse:
        """Answers a request.

        Args:
            model: the version that was chosen for it.
            request: what was asked.
            run: runs one inference request.

        Raises:
            InvalidRequestError: the instances do not fit the model.
            UnsupportedError: this server lacks a library that reads such files.
            DeadlineExceededError: it passed before the front end began.
            HlserveError: see ``run``.
        """
        began = time.perf_counter_ns()
        try:
            self._check_size(model, len(request.instances))
            inputs = await self._inputs(model, request)
            for name, array in inputs.items():
                self._check_elements(name, array.size)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"{model.label}: {error}") from error
        answers = await _run_all(model, request, inputs, run)
        rows = _rows(model, answers, len(request.instances))
        return PredictResponse(
            model_name=model.name,
            model_version=str(model.version),
            request_id=request.request_id,
            predictions=tuple(predicted(row, model.metadata) for row in rows),
            total_ns=time.perf_counter_ns() - began,
            phases=_longest([answer.phases for answer in answers]),
        )

    def _check_size(self, model: ServedModel, count: int) -> None:
        """Before anything is made: a small file can become a large picture, many of them more."""
        rows = model.config.max_request_rows if model.joins else None
        most = MAX_INSTANCES if rows is None else min(rows, MAX_INSTANCES)
        if count > most:
            raise InvalidRequestError(f"{count} instances came, expected at most {most}")
        for tensor in model.session.inputs:
            if -1 not in tensor.shape[1:]:
                self._check_elements(tensor.name, count * math.prod(tensor.shape[1:]))

    def _check_elements(self, name: str, elements: int) -> None:
        if elements > self._max_elements:
            raise InvalidRequestError(
                f"the instances hold {elements} elements of input {name!r}, expected at most "
                f"{self._max_elements}: send fewer at once"
            )

    async def _inputs(self, model: ServedModel, request: PredictRequest) -> dict[str, Array]:
        instances, tensors = request.instances, model.session.inputs
        kind = kind_of(instances)
        if kind in (Numbers, NamedNumbers):
            return numeric_inputs(cast("Sequence[Numbers | NamedNumbers]", instances), tensors)
        front_end = self._front_end(model)
        if front_end is not None:
            items = cast("Sequence[Cells | str | bytes]", instances)
            # Decoding an image or a sound takes milliseconds: not on the event loop.
            _check_deadline(request)

            def work() -> dict[str, Array]:
                _check_deadline(request)  # it may have waited for a thread
                return front_end_inputs(items, front_end, tensors)

            return await asyncio.to_thread(work)
        if kind is Cells:
            raise InvalidRequestError("instance 0 is fields, but the model has no table of columns")
        return text_inputs(cast("Sequence[str | bytes]", instances), tensors)

    def _front_end(self, model: ServedModel) -> FrontEnd | None:
        metadata = model.metadata
        if metadata is None or metadata.frontend is None:
            return None
        key = (model.name, model.version)
        known = self._front_ends.get(key)
        if known is None or known[0] is not metadata:  # loaded again meanwhile
            made = from_json(metadata.frontend, where=f"{model.label}: front end")
            known = metadata, made.feeding([tensor.name for tensor in model.session.inputs])
            self._front_ends[key] = known
        return known[1]


def _check_deadline(request: PredictRequest) -> None:
    if request.deadline_s is not None and time.monotonic() >= request.deadline_s:
        raise DeadlineExceededError(
            f"model {request.model_name!r}: the deadline passed before the instances were read"
        )


async def _run_all(
    model: ServedModel, request: PredictRequest, inputs: Mapping[str, Array], run: Run
) -> list[InferResponse]:
    """One run for all, or one an instance where the model does not take rows joined."""
    parts = [inputs] if model.joins else _one_by_one(model, inputs, len(request.instances))
    return [
        await run(
            InferRequest(
                model_name=model.name,
                model_version=str(model.version),
                request_id=request.request_id,
                inputs=part,
                deadline_s=request.deadline_s,
            )
        )
        for part in parts
    ]


def _one_by_one(
    model: ServedModel, inputs: Mapping[str, Array], count: int
) -> list[dict[str, Array]]:
    """The inputs of each instance: a row of one, or the bare value where there are no rows."""
    has_rows = {tensor.name: bool(tensor.shape) for tensor in model.session.inputs}
    return [
        {
            name: array[row : row + 1] if has_rows[name] else array[row]
            for name, array in inputs.items()
        }
        for row in range(count)
    ]


def _rows(
    model: ServedModel, answers: Sequence[InferResponse], count: int
) -> list[dict[str, Array]]:
    if model.joins:
        return instance_outputs(answers[0].outputs, count)
    return [only_row(answer.outputs) for answer in answers]


def _longest(phases: Sequence[Phases | None]) -> Phases | None:
    known = [each for each in phases if each is not None]
    return max(known, key=lambda each: each.queue_ns + each.compute_infer_ns, default=None)
