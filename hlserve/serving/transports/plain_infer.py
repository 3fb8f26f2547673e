"""ModelInfer for a transport that reads and writes plain requests by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from hlserve.serving.call_record import CallRecord
from hlserve.serving.request import InferRequest, InferResponse
from hlserve.serving.transports.context import (
    CallContext,
    Cancellable,
    DeliverBytes,
    EncodeAnswer,
    InferCall,
)

Encoded = TypeVar("Encoded")
BeginInfer = Callable[[InferRequest, Callable[[InferResponse | Exception], None]], Cancellable]


def plain_infer(begin_infer: BeginInfer, encode: EncodeAnswer) -> InferCall:
    """The call: nothing in it waits, and its outcome is delivered once."""

    def infer(request: InferRequest, context: CallContext, deliver: DeliverBytes) -> Cancellable:
        record = context.record
        record.model, record.version = request.model_name, request.model_version
        record.request_id = request.request_id
        return begin_infer(request, partial(_deliver_encoded, record, encode, deliver))

    return infer


def encoded(
    record: CallRecord, answer: InferResponse, encode: Callable[[InferResponse], Encoded]
) -> Encoded:
    """An answer's message, noted and timed."""
    record.version, record.phases = answer.model_version, answer.phases
    record.rows += answer.rows
    record.answered_ns = time.time_ns()
    started_ns = time.perf_counter_ns()
    encoded = encode(answer)
    answer.statistics.encode.add(time.perf_counter_ns() - started_ns)
    return encoded


def _deliver_encoded(
    record: CallRecord,
    encode: EncodeAnswer,
    deliver: DeliverBytes,
    outcome: InferResponse | Exception,
) -> None:
    answer: bytes | Exception
    if isinstance(outcome, Exception):
        answer = outcome
    else:
        try:
            answer = encoded(record, outcome, encode)
        except Exception as error:
            answer = error
    deliver(answer)
