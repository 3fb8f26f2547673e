"""Spans of real calls, in memory and as a command writes them."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from hlserve.client import InferenceClient
from hlserve.errors import ConfigError, InferenceError, InvalidRequestError
from hlserve.pb.messages import inference
from hlserve.rpcs import find
from hlserve.serving.observing import TracingConfig
from hlserve.serving.statistics import Phases
from hlserve.serving.tracing import Tracing
from hlserve.serving.transports.context import CallContext
from tests.serving import models
from tests.serving.running import running_server

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
MODEL_INFER = find("ModelInfer")


@contextmanager
def spans(rate: float = 1.0) -> Iterator[tuple[Tracing, list[ReadableSpan]]]:
    """What was exported, when the block has ended."""
    exporter = InMemorySpanExporter()
    tracing = Tracing(TracingConfig("console", rate=rate), exporter)
    found: list[ReadableSpan] = []
    yield tracing, found
    tracing.close()
    found.extend(exporter.get_finished_spans())


def context(**metadata: str) -> CallContext:
    return CallContext(MODEL_INFER, metadata=metadata, peer="ipv4:127.0.0.1:5")


def test_a_span_says_what_the_call_was() -> None:
    with spans() as (tracing, found):
        call = context()
        begun = tracing.begin(call)
        record = call.record
        record.model, record.version, record.request_id, record.rows = "m" * 300, "2", "id-1", 7
        tracing.end(call, begun, None)
    (span,) = found
    assert (span.name, span.kind) == ("inference.GRPCInferenceService/ModelInfer", SpanKind.SERVER)
    assert dict(span.attributes or {}) == {
        "rpc.system": "grpc",
        "rpc.service": "inference.GRPCInferenceService",
        "rpc.method": "ModelInfer",
        "rpc.grpc.status_code": 0,
        "hlserve.model.name": "m" * 200 + "...",
        "hlserve.model.version": "2",
        "hlserve.request.id": "id-1",
        "hlserve.rows": 7,
        "hlserve.peer": "ipv4:127.0.0.1:5",
    }
    assert span.resource.attributes["service.name"] == "hlserve"
    assert f"{span.get_span_context().trace_id:032x}" == call.record.trace_id  # type: ignore[union-attr]


def test_the_callers_trace_goes_on() -> None:
    with spans(rate=0.0) as (tracing, found):  # the caller has decided already
        call = context(traceparent=TRACEPARENT, tracestate="vendor=x")
        tracing.end(call, tracing.begin(call), None)
    (span,) = found
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == SPAN_ID
    assert call.record.trace_id == TRACE_ID
    assert span.parent.trace_state["vendor"] == "x"


@pytest.mark.parametrize("sent", ["", "nonsense", f"00-{'0' * 32}-{SPAN_ID}-01", "x" * 100_000])
def test_a_bad_traceparent_begins_a_trace_of_its_own(sent: str) -> None:
    with spans() as (tracing, found):
        call = context(traceparent=sent)
        tracing.end(call, tracing.begin(call), None)
    (span,) = found
    assert span.parent is None


@pytest.mark.parametrize(
    ("error", "number", "status"),
    [
        (InferenceError("the run failed"), 13, StatusCode.ERROR),
        (KeyError("a bug"), 13, StatusCode.ERROR),
        (InvalidRequestError("a wrong shape"), 3, StatusCode.UNSET),  # the caller's mistake
    ],
)
def test_a_failed_call_is_recorded(error: Exception, number: int, status: StatusCode) -> None:
    with spans() as (tracing, found):
        call = context()
        tracing.end(call, tracing.begin(call), error)
    (span,) = found
    assert (span.attributes or {})["rpc.grpc.status_code"] == number
    assert span.status.status_code == status
    assert not span.events  # no stack trace


def test_phases_are_spans_one_after_the_other() -> None:
    with spans() as (tracing, found):
        call = context()
        begun = tracing.begin(call)
        call.record.phases = Phases(1000, 20, 300, 4)
        call.record.answered_ns = 10_000
        tracing.end(call, begun, None)
    times = {span.name: (span.start_time, span.end_time) for span in found[:2]}
    assert times == {"compute": (9676, 10_000), "queue": (8676, 9676)}
    assert {span.parent.span_id for span in found[:2] if span.parent} == {
        found[2].get_span_context().span_id  # type: ignore[union-attr]
    }


def test_a_rate_of_zero_traces_nothing() -> None:
    with spans(rate=0.0) as (tracing, found):
        for _ in range(20):
            call = context()
            tracing.end(call, tracing.begin(call), None)
    assert not found


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 1.5}, "trace rate is 1.5"),
        ({"exporter": "console", "endpoint": "http://x"}, r"a trace endpoint \(http://x\)"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TracingConfig(**settings)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    models.put(tmp_path, "mlp", models.mlp())
    return tmp_path


def serve(root: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hlserve", "serve", str(root), "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def address_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rsplit(" ", 1)[-1].strip()


def test_the_console_shows_every_call_when_the_server_has_drained(
    root: Path, transport: str
) -> None:
    process = serve(root, "--trace", "console", "--transport", transport, OTEL_SERVICE_NAME="shop")
    try:
        address = address_of(process)
        with grpc.insecure_channel(address) as channel:
            request = inference.ModelInferRequest(model_name="mlp", id="seven")
            request.inputs.add(name="input", datatype="FP32", shape=[1, 8])
            request.raw_input_contents.append(np.full(8, 0.12345, np.float32).tobytes())
            channel.unary_unary(
                MODEL_INFER.path,
                request_serializer=inference.ModelInferRequest.SerializeToString,
                response_deserializer=inference.ModelInferResponse.FromString,
            )(request, timeout=20, metadata=[("traceparent", TRACEPARENT)])
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, err
    written = [json.loads(line) for line in out.splitlines()]
    span = next(one for one in written if one["name"].endswith("ModelInfer"))
    assert span["context"]["trace_id"] == f"0x{TRACE_ID}"
    assert span["parent_id"] == f"0x{SPAN_ID}"
    assert span["attributes"]["hlserve.model.name"] == "mlp"
    assert span["attributes"]["hlserve.rows"] == 1
    assert span["resource"]["attributes"]["service.name"] == "shop"
    assert "0.12345" not in out


def test_a_collector_that_is_not_there_does_not_hold_up_the_end(root: Path) -> None:
    process = serve(root, "--trace-otlp", "http://127.0.0.1:1", "--drain-timeout-s", "1")
    try:
        with InferenceClient(address_of(process), timeout_s=20) as client:
            client.infer("mlp", {"input": np.zeros((1, 8), np.float32)})
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.communicate(timeout=30)


def test_nothing_of_it_is_imported_when_it_is_off(root: Path) -> None:
    code = (
        "import asyncio, sys, pathlib\n"
        "from hlserve.serving.config import ServerConfig\n"
        "from hlserve.serving.server import Server\n"
        "async def run():\n"
        f"    server = Server(ServerConfig(models=pathlib.Path({str(root)!r}), port=0))\n"
        "    await server.start()\n"
        "    return await server.drain()\n"
        "print(asyncio.run(run()), any('opentelemetry' in name for name in sys.modules),\n"
        "      'prometheus_client' in sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout.split() == ["True", "False", "False"], ran.stderr


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """Its address, and the spans that it got."""
    received: list[Any] = []

    class Collector(TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> ExportTraceServiceResponse:  # noqa: N802
            received.extend(spans_in(request))
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(1))
    add_TraceServiceServicer_to_server(Collector(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}", received
    finally:
        server.stop(0).wait()


def test_spans_reach_a_collector_over_grpc() -> None:
    with collector() as (endpoint, received):
        trace_one_call(TracingConfig("otlp", endpoint))
    assert [span.name for span in received] == ["inference.GRPCInferenceService/ModelInfer"]


def test_what_is_traced_is_changed_by_call(root: Path) -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    models.put(root, "other", models.mlp())
    with (
        collector() as (endpoint, received),
        running_server(root, tracing=TracingConfig("otlp", endpoint, rate=0.3)) as server,
        triton.InferenceServerClient(server.address) as client,
    ):

        def ask(model: str, name: str, **headers: str) -> None:
            tensor = triton.InferInput("input", [1, 8], "FP32")
            tensor.set_data_from_numpy(np.zeros((1, 8), np.float32))
            client.infer(model, [tensor], request_id=name, headers=headers)

        def settings(model: str = "") -> tuple[str, ...]:
            told = client.get_trace_settings(model).settings
            return tuple(told[f"trace_{name}"].value[0] for name in ("level", "rate", "count"))

        assert "trace" in client.get_server_metadata().extensions
        assert settings() == ("TIMESTAMPS", "3", "-1")
        client.update_trace_settings(settings={"trace_rate": ["1"]})
        ask("mlp", "every one")
        client.update_trace_settings(settings={"trace_level": ["OFF"]})
        ask("mlp", "none")
        ask("mlp", "none, though its caller traces it", traceparent=TRACEPARENT)
        own = {"trace_level": ["TIMESTAMPS"], "trace_count": ["2"]}
        client.update_trace_settings("mlp", settings=own)
        ask("other", "not of this model")
        ask("mlp", "of its own settings")
        # One of the two that were left went to the call that set them.
        assert settings("mlp") == ("TIMESTAMPS", "1", "0")
        ask("mlp", "beyond the count")
        client.update_trace_settings("mlp", settings={"trace_level": None, "trace_count": None})
        client.update_trace_settings(
            settings={"trace_level": ["TIMESTAMPS"], "trace_rate": [str(2**31 - 1)]}
        )
        ask("mlp", "one of two billion")
        ask("mlp", "its caller traces it", traceparent=TRACEPARENT)
    asked = [span for span in received if span.name.endswith("/ModelInfer")]
    assert [attributes_of(span)["hlserve.request.id"] for span in asked] == [
        "every one",
        "of its own settings",
        "its caller traces it",
    ]


def test_spans_reach_a_collector_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[tuple[str, list[str]]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = ExportTraceServiceRequest.FromString(body)
            received.append((self.path, [span.name for span in spans_in(request)]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = threading.Thread(target=collector.serve_forever, args=(0.05,))
        thread.start()
        try:
            trace_one_call(TracingConfig("otlp", f"http://127.0.0.1:{collector.server_port}"))
        finally:
            collector.shutdown()
            thread.join()
    assert received == [("/v1/traces", ["inference.GRPCInferenceService/ModelInfer"])]


def trace_one_call(config: TracingConfig) -> None:
    tracing = Tracing(config)
    call = context()
    tracing.end(call, tracing.begin(call), None)
    tracing.close()


def spans_in(request: Any) -> list[Any]:
    return [
        span
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def attributes_of(span: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in span.attributes}


def test_a_missing_package_is_told_when_it_is_asked_for(root: Path) -> None:
    code = (
        "import sys\nsys.modules['opentelemetry'] = None\n"
        "from hlserve.cli import cli, run\n"
        f"sys.exit(run(cli, ['serve', {str(root)!r}, '--port', '0', '--trace', 'console']))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.returncode != 0
    assert "pip install 'hlserve[otel]'" in ran.stderr
    assert "Traceback" not in ran.stderr
