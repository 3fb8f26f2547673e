"""Metrics as a scraper sees them: names, labels, exact counts, over a real port."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import grpc
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_open_metrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from hlserve import errors
from hlserve.client import InferenceClient
from hlserve.errors import ConfigError, ServerError, UnavailableError
from hlserve.rpcs import find
from hlserve.serving.exposition import render
from hlserve.serving.host import CpuClock, memory
from hlserve.serving.metrics import MetricsServer
from hlserve.serving.observing import MetricsConfig
from hlserve.serving.snapshot import Snapshot, merge, take
from hlserve.serving.statistics import (
    FAILURE_REASONS,
    HISTOGRAM_BOUNDS_S,
    ModelStatistics,
    Phases,
    failure_reason,
)
from hlserve.serving.transports.status import outcome_of
from tests.serving import models
from tests.serving.running import RunningServer, running_server

# Triton docs/user_guide/metrics.md; what it says of GPUs, caches and pinned memory is not ours.
TRITON_COUNTERS = {
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_count",
    "nv_inference_exec_count",
    "nv_inference_request_duration_us",
    "nv_inference_queue_duration_us",
    "nv_inference_compute_input_duration_us",
    "nv_inference_compute_infer_duration_us",
    "nv_inference_compute_output_duration_us",
}
TRITON_GAUGES = {
    "nv_inference_pending_request_count",
    "nv_cpu_utilization",
    "nv_cpu_memory_total_bytes",
    "nv_cpu_memory_used_bytes",
}
OURS = {
    "hlserve_request_duration_seconds": "histogram",
    "hlserve_phase_duration_seconds": "histogram",
    "hlserve_batch_rows": "histogram",
    "hlserve_calls": "counter",
    "hlserve_build_info": "gauge",
    "hlserve_processes": "gauge",
    "process_cpu_seconds": "counter",
    "process_resident_memory_bytes": "gauge",
    "process_virtual_memory_bytes": "gauge",
    "process_start_time_seconds": "gauge",
    "process_open_fds": "gauge",
    "process_max_fds": "gauge",
}
PHASES = ("queue", "compute_input", "compute_infer", "compute_output", "encode")
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"

ROW = {"input": np.zeros((1, 8), np.float32)}


@dataclass(frozen=True)
class Version:
    name: str
    version: int = 1
    statistics: ModelStatistics = field(default_factory=ModelStatistics)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    models.put(tmp_path, "mlp", models.mlp())
    models.put(tmp_path, "lookup", models.lookup())
    return tmp_path


@pytest.fixture
def server(root: Path, transport: str) -> Iterator[RunningServer]:
    with running_server(root, metrics=MetricsConfig(port=0), transport=transport) as running:
        yield running


def get(
    server: RunningServer, path: str = "/metrics", *, method: str = "GET", accept: str = ""
) -> tuple[int, str, str]:
    assert server.server.metrics_port is not None
    connection = HTTPConnection("127.0.0.1", server.server.metrics_port, timeout=20)
    try:
        connection.request(method, path, headers={"Accept": accept})
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type", ""), answer.read().decode()
    finally:
        connection.close()


@lru_cache(maxsize=4)
def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """By name as it is on the wire: the parser adds _total to every counter."""
    return {
        (
            family.name if family.name in TRITON_COUNTERS else sample.name,
            tuple(sorted(sample.labels.items())),
        ): sample.value
        for family in parse_text(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    return samples(text)[name, tuple(sorted(labels.items()))]


def test_every_name_is_there_with_its_type(server: RunningServer) -> None:
    _, content_type, text = get(server)
    assert content_type.startswith("text/plain; version=0.0.4")
    types = dict(line.split()[2:] for line in text.splitlines() if line.startswith("# TYPE"))
    assert {name for name in types if name.startswith("nv_")} == TRITON_COUNTERS | TRITON_GAUGES
    assert {types[name] for name in TRITON_COUNTERS} == {"counter"}
    assert {types[name] for name in TRITON_GAUGES} == {"gauge"}
    parsed = {family.name: family.type for family in parse_text(text)}
    assert {name: parsed[name] for name in OURS} == OURS


def test_counters_are_exact_after_known_requests(server: RunningServer) -> None:
    with InferenceClient(server.address, timeout_s=20) as client:
        for rows in (1, 3, 3):
            client.infer("mlp", {"input": np.zeros((rows, 8), np.float32)})
        with pytest.raises(ServerError, match="INTERNAL"):
            client.infer("lookup", {"index": np.array([99])})
        with pytest.raises(ServerError, match="INVALID_ARGUMENT"):
            client.infer("mlp", {"input": np.zeros((1, 7), np.float32)})
        with pytest.raises(ServerError, match="NOT_FOUND"):
            client.infer("absent", ROW)
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary(find("ModelInfer").path)(b"\xff no message", timeout=20)
    _, _, text = get(server)
    assert 'nv_inference_request_success{model="mlp",version="1"} 3.0' in text.splitlines()
    mlp = {"model": "mlp", "version": "1"}
    assert value(text, "nv_inference_request_success", **mlp) == 3
    assert value(text, "nv_inference_count", **mlp) == 7
    assert value(text, "nv_inference_pending_request_count", **mlp) == 0
    for model, failed in (("mlp", "OTHER"), ("lookup", "BACKEND")):
        for reason in FAILURE_REASONS:
            labels = {"model": model, "version": "1", "reason": reason}
            assert value(text, "nv_inference_request_failure", **labels) == (reason == failed)
    calls = {"service": "inference.GRPCInferenceService", "method": "ModelInfer"}
    for status, count in (("OK", 3), ("INTERNAL", 1), ("INVALID_ARGUMENT", 2), ("NOT_FOUND", 1)):
        assert value(text, "hlserve_calls_total", **calls, status=status) == count


def test_histograms_agree_with_the_statistics(server: RunningServer) -> None:
    with InferenceClient(server.address, timeout_s=20) as client:
        for _ in range(5):
            client.infer("mlp", ROW)
    _, _, text = get(server)
    model = next(model for model in server.server.models if model.name == "mlp")
    labels = {"model": "mlp", "version": "1"}
    durations = {
        "hlserve_request_duration_seconds": ({}, model.statistics.success),
        **{f"{phase}": ({"phase": phase}, getattr(model.statistics, phase)) for phase in PHASES},
    }
    for name, (phase, duration) in durations.items():
        family = "hlserve_phase_duration_seconds" if phase else name
        assert value(text, f"{family}_count", **labels, **phase) == duration.count == 5
        assert value(text, f"{family}_sum", **labels, **phase) == duration.ns / 1e9
        counts = [
            value(text, f"{family}_bucket", **labels, **phase, le=str(bound))
            for bound in (*HISTOGRAM_BOUNDS_S, "+Inf")
        ]
        assert counts == np.cumsum(duration.buckets).tolist()
    assert model.statistics.encode.ns > 0


def test_open_metrics_is_spoken_where_it_is_asked_for(server: RunningServer) -> None:
    _, content_type, text = get(server, accept=f"{OPEN_METRICS},text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text")
    families = {family.name: family.type for family in parse_open_metrics(text)}
    assert {families[name] for name in TRITON_COUNTERS} == {"unknown"}
    assert families["hlserve_calls"] == "counter"
    assert families["hlserve_build"] == "info"


def test_only_get_of_metrics_is_answered(server: RunningServer) -> None:
    assert get(server, "/")[0] == 404
    assert get(server, "/metrics?x=1")[0] == 200
    assert get(server, method="POST")[0] == 501


def test_scrapers_that_hang_up_or_talk_nonsense_leave_it_serving(
    server: RunningServer, capfd: pytest.CaptureFixture[str]
) -> None:
    address = ("127.0.0.1", server.server.metrics_port)
    for content in (
        b"",
        b"\x16\x03\x01\x00",
        b"GET /metrics HTTP/1.1\r\nAccept: " + b"x" * 100_000,
    ):
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(content)
    assert get(server)[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_scrape_counts_what_is_pending(server: RunningServer, root: Path) -> None:
    model = next(model for model in server.server.models if model.name == "mlp")
    model.statistics.pending += 2
    _, _, text = get(server)
    assert value(text, "nv_inference_pending_request_count", model="mlp", version="1") == 2


def test_the_port_is_closed_when_the_server_ends(root: Path, transport: str) -> None:
    with running_server(root, metrics=MetricsConfig(port=0), transport=transport) as running:
        port = running.server.metrics_port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=20)


def test_a_port_in_use_is_told(root: Path, transport: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(UnavailableError, match=f"cannot serve metrics on 127.0.0.1:{port}"),
            running_server(root, metrics=MetricsConfig(port=port), transport=transport),
        ):
            pass


def scrape(snapshot: Callable[[], Snapshot], host: str) -> int:
    server = MetricsServer(snapshot, host, 0)
    connection = HTTPConnection(host, server.port, timeout=20)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().status
    finally:
        connection.close()
        server.close()


def test_a_loop_that_cannot_answer_fails_the_scrape_alone() -> None:
    def hang() -> Snapshot:
        raise TimeoutError

    assert scrape(hang, "127.0.0.1") == 503


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_metrics_are_served_over_ipv6() -> None:
    assert scrape(lambda: take([], {}), "::1") == 200


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (None, "OK", None),
        (errors.QueueFullError(), "UNAVAILABLE", "REJECTED"),
        (errors.DeadlineExceededError(), "DEADLINE_EXCEEDED", "REJECTED"),
        (errors.CancelledError(), "CANCELLED", "CANCELED"),
        (asyncio.CancelledError(), "CANCELLED", "CANCELED"),
        (GeneratorExit(), "CANCELLED", "OTHER"),  # a stream that its reader left; no request's end
        (errors.InferenceError(), "INTERNAL", "BACKEND"),
        (KeyError(), "INTERNAL", "OTHER"),
        (errors.InvalidRequestError(), "INVALID_ARGUMENT", "OTHER"),
    ],
)
def test_every_end_has_a_status_and_a_reason(
    error: BaseException | None, status: str, reason: str | None
) -> None:
    assert outcome_of(error) == status
    assert error is None or failure_reason(error) == reason


def test_an_impossible_port_is_refused() -> None:
    with pytest.raises(ConfigError, match="metrics port is 70000"):
        MetricsConfig(port=70_000)


def test_without_metrics_no_spread_is_recorded_and_counts_are(root: Path, transport: str) -> None:
    with (
        running_server(root, transport=transport) as running,
        InferenceClient(running.address, timeout_s=20) as client,
    ):
        client.infer("mlp", ROW)
        statistics = next(m for m in running.server.models if m.name == "mlp").statistics
        assert running.server.metrics_port is None
        assert statistics.success.count == 1
        assert statistics.success.ns > 0
        assert statistics.success.buckets == []


def test_a_version_that_is_unloaded_is_gone() -> None:
    served = [Version("a"), Version("b")]
    for expected in ({"a", "b"}, {"b"}):
        text, _ = render(take(served, {}), CpuClock())
        names = {
            dict(labels)["model"] for name, labels in samples(text.decode()) if "nv_inf" in name
        }
        assert names == expected
        served.pop(0)


@settings(deadline=None, max_examples=30)
@given(name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
@pytest.mark.parametrize("accept", ["", OPEN_METRICS])
def test_labels_are_escaped(accept: str, name: str) -> None:
    text, _ = render(take([Version(name)], {}), CpuClock(), accept)
    parse: Any = parse_open_metrics if accept else parse_text
    found = {
        sample.labels["model"]
        for family in parse(text.decode())
        for sample in family.samples
        if "model" in sample.labels
    }
    assert found == {name}


RECORDS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.integers(1, 2),
        st.integers(1, 2000),
        st.integers(0, 10**11),
        st.sampled_from([None, *FAILURE_REASONS]),
    ),
    max_size=20,
)


def recorded(records: list[tuple[str, int, int, int, Any]]) -> Snapshot:
    served: dict[tuple[str, int], Version] = {}
    calls: dict[tuple[str, str, str], int] = {}
    for name, version, rows, ns, reason in records:
        statistics = served.setdefault((name, version), Version(name, version)).statistics
        key = ("service", "method", reason or "OK")
        calls[key] = calls.get(key, 0) + 1
        if reason is None:
            statistics.executed(rows, 1, ns, 2)
            statistics.answered(1, rows, ns, Phases(ns, 1, ns, 2))
        else:
            statistics.failed(reason, ns)
    return take(served.values(), calls)


@given(parts=st.lists(RECORDS, min_size=1, max_size=3))
def test_processes_added_up_are_one_process_that_did_it_all(parts: list[Any]) -> None:
    merged = merge([recorded(part) for part in parts])
    whole = recorded([record for part in parts for record in part])
    assert len(merged.pids) == len(parts)
    assert by_version(merged) == by_version(whole)
    assert set(merged.calls) == set(whole.calls)


def by_version(snapshot: Snapshot) -> dict[tuple[str, int], Any]:
    return {(model.name, model.version): model for model in snapshot.models}


@given(records=RECORDS)
def test_a_snapshot_travels_as_json(records: list[Any]) -> None:
    snapshot = recorded(records)
    assert msgspec.json.decode(msgspec.json.encode(snapshot), type=Snapshot) == snapshot


@settings(deadline=None, max_examples=30)  # the parser takes its time
@given(records=RECORDS)
def test_the_histogram_of_batches_counts_every_run(records: list[Any]) -> None:
    text = render(recorded(records), CpuClock())[0].decode()
    executions = {k: v for k, v in samples(text).items() if k[0] == "nv_inference_exec_count"}
    assert len(executions) == len({(record[0], record[1]) for record in records})
    for (_, labels), runs in executions.items():
        model = dict(labels)
        rows = [r[2] for r in records if (r[0], str(r[1]), r[4]) == (*model.values(), None)]
        assert value(text, "hlserve_batch_rows_count", **model) == runs == len(rows)
        assert value(text, "hlserve_batch_rows_sum", **model) == sum(rows)
        for bound in (1.0, 64.0, 1024.0):
            below = sum(count <= bound for count in rows)
            assert value(text, "hlserve_batch_rows_bucket", **model, le=str(bound)) == below


def test_runs_of_very_many_rows_share_their_counts_and_none_is_lost() -> None:
    statistics = ModelStatistics()
    sizes = (1, 1023, *range(1024, 5000), 2**30, 2**30 + 1)
    for rows in sizes:
        statistics.executed(rows, 1, 2, 3)
    assert sorted(statistics.batches) == [1, 1023, 1024, 2048, 4096, 8192, 2**30, 2**31]
    assert sum(batch.count for batch in statistics.batches.values()) == len(sizes)
    assert statistics.executed_rows == sum(sizes)


def test_several_processes_show_their_sum() -> None:
    one = take([], {})
    text, _ = render(merge([one, one]), CpuClock())
    alone, _ = render(one, CpuClock())
    assert value(text.decode(), "hlserve_processes") == 2
    memories = [value(t.decode(), "process_virtual_memory_bytes") for t in (text, alone)]
    assert memories[0] / 2 == pytest.approx(memories[1], rel=0.1)  # the process itself may grow
    starts = [value(t.decode(), "process_start_time_seconds") for t in (text, alone)]
    assert starts[0] == starts[1]


def test_the_machine_is_read_from_proc(tmp_path: Path) -> None:
    clock = CpuClock(tmp_path)
    assert clock.utilization() is None
    assert memory(tmp_path) is None
    (tmp_path / "meminfo").write_text("MemTotal: 10 kB\nMemFree: 1 kB\nMemAvailable: 4 kB\n")
    figures = memory(tmp_path)
    assert figures is not None
    assert (figures.total, figures.used) == (10_240, 6_144)
    for line, expected in (
        ("cpu  10 0 10 60 20 0 0 0 9 9", 0.2),
        ("cpu  40 0 10 60 30 0 0 0 9 9", 0.75),
        ("cpu  40 0 10 60 30 0 0 0 9 9", 0.0),
    ):
        (tmp_path / "stat").write_text(f"{line}\ncpu0 1\n")
        assert clock.utilization() == pytest.approx(expected, abs=1e-12)  # float division
