"""Traces for OpenTelemetry: a span a call, under the caller's where it sends its trace context.

Needs the extra ``otel``. Spans carry names, counts and statuses; never tensors.

SOURCE: OpenTelemetry semantic conventions for RPC spans and gRPC; W3C Trace Context.
"""

from __future__ import annotations

import os
import threading
import time
from random import Random
from typing import Any

from hlserve import __version__
from hlserve.errors import MissingDependencyError
from hlserve.serving.observing import TracingConfig
from hlserve.serving.settings import ServerSettings, TraceSettings
from hlserve.serving.statistics import Phases
from hlserve.serving.transports.context import CallContext
from hlserve.serving.transports.stage import Stage
from hlserve.serving.transports.status import STATUS_NUMBERS, outcome_of

try:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import (
        BatchSpanProcessor,
        ConsoleSpanExporter,
        SpanExporter,
    )
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON
    from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise MissingDependencyError(
        f"traces need OpenTelemetry ({error.name} is missing): pip install 'hlserve[otel]'"
    ) from error

# Those of a server's statuses that are its own failure; the others tell the caller of its mistake.
_SERVER_FAULTS = frozenset(("DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE"))
_MAX_TEXT_CHARS = 200
_FLUSH_TIMEOUT_S = 2.0


class Tracing(Stage):
    """A stage that makes a span of every call that its settings choose.

    A span is made when its call has ended: only then is the model known, whose settings hold.

    Args:
        config: where spans go, and how many from the start.
        exporter: instead of the one that ``config`` names.

    Attributes:
        settings: what is traced, and can be changed by call.
    """

    def __init__(self, config: TracingConfig, exporter: SpanExporter | None = None) -> None:
        self._config = config
        self._initial = _initial(config)
        self.settings = ServerSettings(self._initial, can_trace=True)
        # Not the process-wide provider: who embeds the server may have one of their own.
        self._provider = TracerProvider(resource=_resource(), sampler=ALWAYS_ON)
        self._exporter = exporter or _exporter(config)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("hlserve", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._rng = Random()

    def begin(self, context: CallContext) -> int:
        """When the call began, nanoseconds since the epoch."""
        return time.time_ns()

    def end(self, context: CallContext, begun: object, error: BaseException | None) -> None:
        """Makes the span, under the caller's ``traceparent``, where the call is to be traced."""
        assert isinstance(begun, int)
        rpc, record = context.rpc, context.record
        parent = self._propagator.extract(context.metadata, context=Context())
        if not self._chooses(record.model, trace.get_current_span(parent).get_span_context()):
            return
        self.settings.traced(record.model)
        span = self._tracer.start_span(
            f"{rpc.service}/{rpc.name}",
            context=parent,
            kind=SpanKind.SERVER,
            attributes=_attributes(context, error),
            start_time=begun,
        )
        record.trace_id = f"{span.get_span_context().trace_id:032x}"
        if outcome_of(error) in _SERVER_FAULTS:
            span.set_status(Status(StatusCode.ERROR, _cut(str(error))))
        if record.phases is not None:
            self._add_phases(span, record.phases, record.answered_ns)
        span.end()

    def close(self) -> None:
        """Sends what is waiting to be sent; blocks, and gives up where nobody takes it."""
        # The library's timeouts do not bound this: it retries as long as one export may take.
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(_FLUSH_TIMEOUT_S)
        if sending.is_alive():
            self._exporter.shutdown()

    def _chooses(self, model: str, caller: SpanContext) -> bool:
        """Whether a call is traced: as its caller decided, else by chance."""
        settings = self.settings.trace(model)
        if settings.level == "OFF" or settings.count == 0:
            return False
        if caller.is_valid:
            return bool(caller.trace_flags.sampled)
        is_initial = settings.rate == self._initial.rate
        return self._rng.random() < (self._config.rate if is_initial else 1 / settings.rate)

    def _add_phases(self, span: Span, phases: Phases, answered_ns: int) -> None:
        """A span each for waiting and for computing, which ended when the answer was there."""
        compute_ns = phases.compute_input_ns + phases.compute_infer_ns + phases.compute_output_ns
        parent = trace.set_span_in_context(span, Context())
        ended_ns = answered_ns
        for name, duration_ns in (("compute", compute_ns), ("queue", phases.queue_ns)):
            if duration_ns:
                started_ns = ended_ns - duration_ns
                child = self._tracer.start_span(name, context=parent, start_time=started_ns)
                child.end(ended_ns)
                ended_ns = started_ns


# ----- below: what a span says, and where it goes -----


def _initial(config: TracingConfig) -> TraceSettings:
    """The share as one request of so many, the nearest; what is traced goes by the share itself."""
    return TraceSettings("TIMESTAMPS", round(1 / config.rate) if config.rate else 0)


def _attributes(context: CallContext, error: BaseException | None) -> dict[str, Any]:
    rpc, record = context.rpc, context.record
    attributes: dict[str, Any] = {
        "rpc.system": "grpc",
        "rpc.service": rpc.service,
        "rpc.method": rpc.name,
        "rpc.grpc.status_code": 0 if error is None else STATUS_NUMBERS[outcome_of(error)],
    }
    for key, value in (
        ("hlserve.model.name", _cut(record.model)),
        ("hlserve.model.version", _cut(record.version)),
        ("hlserve.request.id", _cut(record.request_id)),
        ("hlserve.rows", record.rows),
        ("hlserve.peer", context.peer),
    ):
        if value:
            attributes[key] = value
    return attributes


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT_CHARS else text[:_MAX_TEXT_CHARS] + "..."


def _resource() -> Resource:
    """Who sends the spans: OTEL_SERVICE_NAME, or hlserve."""
    resource = Resource.create({"service.version": __version__})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "hlserve"}))
    return resource


def _exporter(config: TracingConfig) -> SpanExporter:
    if config.exporter == "console":
        return ConsoleSpanExporter(formatter=_one_line)
    protocol = os.environ.get(
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    )
    try:
        if protocol.startswith("http"):
            return _otlp_http(config.endpoint)
        return _otlp_grpc(config.endpoint)
    except ImportError as error:
        raise MissingDependencyError(
            f"traces by OTLP over {protocol} need an exporter ({error.name} is missing): "
            "pip install 'hlserve[otel]'"
        ) from error


def _one_line(span: Any) -> str:
    return str(span.to_json(indent=None)) + "\n"


def _otlp_grpc(endpoint: str | None) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    if endpoint is None:
        return OTLPSpanExporter()
    return OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://"))


def _otlp_http(endpoint: str | None) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    if endpoint is None:
        return OTLPSpanExporter()
    return OTLPSpanExporter(endpoint=endpoint.rstrip("/").removesuffix("/v1/traces") + "/v1/traces")
