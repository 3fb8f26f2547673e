"""One request on one version of a model: from its checks to its answer."""

from __future__ import annotations

import time
from collections.abc import Callable

from hlserve.errors import InferenceError, InvalidRequestError
from hlserve.serving.batching import Answer, Outcome
from hlserve.serving.checks import check_request
from hlserve.serving.classification import classify
from hlserve.serving.model import ServedModel
from hlserve.serving.request import Array, InferRequest, InferResponse
from hlserve.serving.uses import Uses

DeliverResponse = Callable[[InferResponse | Exception], None]


def _ignore(_response: InferResponse | Exception) -> None:
    """Nobody is told twice."""


class Inference:
    """A request from when it is taken until its answer is delivered.

    Args:
        model: who answers; its version stays loaded until then.
        request: what was asked.
        deliver: gets the outcome, once.
        uses: the server's count of requests in flight.

    Raises:
        HlserveError: the request was not taken, and nothing will be delivered.
    """

    __slots__ = ("_deliver", "_model", "_pending", "_request", "_uses", "_wanted")

    def __init__(
        self, model: ServedModel, request: InferRequest, deliver: DeliverResponse, uses: Uses
    ) -> None:
        self._model = model
        self._request = request
        self._deliver = deliver
        self._uses = uses
        if request.signature is None or request.signature not in model.accepted:
            _check(model, request)
        self._wanted = request.outputs or model.session.output_names
        uses.begin()
        model.uses.begin()
        try:
            self._pending = model.batcher.submit(
                request.inputs,
                self._wanted,
                self._ended,
                deadline_s=request.deadline_s,
                priority=request.priority,
                timeout_us=request.timeout_us,
                arrived_ns=request.arrived_ns,
                signature=request.signature,
            )
        except BaseException as error:
            self._end_uses()
            if isinstance(error, InvalidRequestError):
                raise InvalidRequestError(f"{model.label}: {error}") from error
            raise

    def cancel(self) -> None:
        """The caller went away: it is told so, unless it has its answer."""
        self._model.batcher.cancel(self._pending)

    def _ended(self, outcome: Outcome) -> None:
        self._end_uses()
        deliver, self._deliver = self._deliver, _ignore  # leaves no cycle
        response: InferResponse | Exception
        if isinstance(outcome, Exception):
            response = self._labelled(outcome)
        else:
            try:
                response = self._response(outcome)
            except Exception as error:
                response = error
        deliver(response)
        del outcome, response  # an error knows this frame: no cycle is left for the collector

    def _end_uses(self) -> None:
        self._model.uses.end()
        self._uses.end()

    def _response(self, answer: Answer) -> InferResponse:
        model, request, outputs = self._model, self._request, answer.outputs
        if request.classifications:
            outputs = {name: _values(model, request, name, outputs[name]) for name in self._wanted}
        elif len(self._wanted) > 1:  # in the order wanted
            outputs = {name: outputs[name] for name in self._wanted}
        return InferResponse(
            model.name,
            model.version_text,
            request.request_id,
            outputs,
            self._pending.rows,
            answer.phases,
            model.statistics,
        )

    def _labelled(self, error: Exception) -> Exception:
        """An error of the run, with the model that it happened in."""
        if not isinstance(error, InferenceError | InvalidRequestError):
            return error
        labelled = type(error)(f"{self._model.label}: {error}")
        labelled.__cause__ = error
        return labelled


def _values(model: ServedModel, request: InferRequest, name: str, array: Array) -> Array:
    """An output's values, or its top classes where they were asked for."""
    count = request.classifications.get(name)
    if not count:
        return array
    labels = model.labels.get(name)
    if labels is None and model.metadata is not None:
        labels = model.metadata.class_labels
    try:
        return classify(array, count, labels=labels, has_rows=model.joins)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{model.label}: output {name!r}: {error}") from error


def _check(model: ServedModel, request: InferRequest) -> None:
    begun_ns = time.monotonic_ns()
    try:
        check_request(model, request)
    except InvalidRequestError:
        model.statistics.failed("OTHER", time.monotonic_ns() - begun_ns)
        raise
