"""A snapshot in the formats that Prometheus scrapes: Triton's names, and ours beside them.

SOURCE: Triton docs/user_guide/metrics.md for every ``nv_`` name and its labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from hlserve import __version__
from hlserve.serving.host import CpuClock, memory
from hlserve.serving.snapshot import ModelSnapshot, Snapshot, Spread
from hlserve.serving.statistics import HISTOGRAM_BOUNDS_S

_Value = Callable[[ModelSnapshot], float]

# Name, help, value. Triton's counters do not end in _total.
_TRITON_COUNTERS: tuple[tuple[str, str, _Value], ...] = (
    (
        "nv_inference_request_success",
        "Number of successful inference requests, all batch sizes",
        lambda model: model.success.count,
    ),
    (
        "nv_inference_count",
        "Number of inferences performed (does not include cached requests)",
        lambda model: model.inference_count,
    ),
    (
        "nv_inference_exec_count",
        "Number of model executions performed (does not include cached requests)",
        lambda model: model.execution_count,
    ),
    (
        "nv_inference_request_duration_us",
        "Cumulative inference request duration in microseconds (includes cached requests)",
        lambda model: model.success.ns // 1000,
    ),
    (
        "nv_inference_queue_duration_us",
        "Cumulative inference queuing duration in microseconds (includes cached requests)",
        lambda model: model.phases["queue"].ns // 1000,
    ),
    (
        "nv_inference_compute_input_duration_us",
        "Cumulative compute input duration in microseconds (does not include cached requests)",
        lambda model: model.phases["compute_input"].ns // 1000,
    ),
    (
        "nv_inference_compute_infer_duration_us",
        "Cumulative compute inference duration in microseconds (does not include cached requests)",
        lambda model: model.phases["compute_infer"].ns // 1000,
    ),
    (
        "nv_inference_compute_output_duration_us",
        "Cumulative inference compute output duration in microseconds (does not include cached "
        "requests)",
        lambda model: model.phases["compute_output"].ns // 1000,
    ),
)
_FAILURES = "nv_inference_request_failure"
_MODEL_LABELS = ("model", "version")

# Upper bounds of the rows of a run.
BATCH_ROWS_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def render(snapshot: Snapshot, clock: CpuClock, accept: str = "") -> tuple[bytes, str]:
    """The metrics and their content type.

    Args:
        snapshot: of one process, or several merged.
        clock: the machine's, kept from one scrape to the next.
        accept: the scraper's Accept header; it chooses between Prometheus' text and OpenMetrics.
    """
    encoder, content_type = choose_encoder(accept)
    is_open_metrics = content_type.startswith("application/openmetrics-text")
    registry = CollectorRegistry()
    registry.register(_Families(_all(snapshot, clock, is_open_metrics=is_open_metrics)))
    text = encoder(registry)
    return (text if is_open_metrics else _with_triton_headers(text)), content_type


# ----- below: the families -----


class _Families(Collector):
    """A collector of what is already there."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> list[Metric]:
        """All of them."""
        return self._families


def _all(snapshot: Snapshot, clock: CpuClock, *, is_open_metrics: bool) -> Iterator[Metric]:
    # OpenMetrics knows no counter whose name does not end in _total, and calls it unknown.
    counter = "unknown" if is_open_metrics else "counter"
    yield from _triton_models(snapshot, counter)
    yield from _triton_host(clock)
    yield from _histograms(snapshot)
    yield _calls(snapshot)
    yield InfoMetricFamily("hlserve_build", "The version that runs", {"version": __version__})
    yield GaugeMetricFamily("hlserve_processes", "Processes that serve", len(snapshot.pids))
    yield from _processes(snapshot.pids)


def _triton_models(snapshot: Snapshot, counter: str) -> Iterator[Metric]:
    for name, text, value in _TRITON_COUNTERS:
        family = Metric(name, text, counter)
        for model in snapshot.models:
            family.add_sample(name, _labels(model), value(model))
        yield family
    failures = Metric(_FAILURES, "Number of failed inference requests, all batch sizes", counter)
    pending = GaugeMetricFamily(
        "nv_inference_pending_request_count",
        "Instantaneous number of pending requests awaiting execution per-model",
        labels=_MODEL_LABELS,
    )
    for model in snapshot.models:
        for reason, count in model.failures.items():
            failures.add_sample(_FAILURES, {**_labels(model), "reason": reason}, count)
        pending.add_metric(list(_labels(model).values()), model.pending)
    yield failures
    yield pending


def _triton_host(clock: CpuClock) -> Iterator[Metric]:
    utilization, figures = clock.utilization(), memory()
    if utilization is not None:
        yield GaugeMetricFamily(
            "nv_cpu_utilization", "CPU utilization rate [0.0 - 1.0]", utilization
        )
    if figures is not None:
        yield GaugeMetricFamily(
            "nv_cpu_memory_total_bytes", "CPU total memory (RAM), in bytes", figures.total
        )
        yield GaugeMetricFamily(
            "nv_cpu_memory_used_bytes", "CPU used memory (RAM), in bytes", figures.used
        )


def _histograms(snapshot: Snapshot) -> Iterator[Metric]:
    requests = HistogramMetricFamily(
        "hlserve_request_duration_seconds",
        "From the request decoded to its answer, of the requests that got one",
        labels=_MODEL_LABELS,
    )
    phases = HistogramMetricFamily(
        "hlserve_phase_duration_seconds",
        "What a request spent waiting, computing and being encoded",
        labels=(*_MODEL_LABELS, "phase"),
    )
    rows = HistogramMetricFamily("hlserve_batch_rows", "Rows of a run", labels=_MODEL_LABELS)
    for model in snapshot.models:
        labels = list(_labels(model).values())
        _add_durations(requests, labels, model.success)
        for phase, spread in model.phases.items():
            _add_durations(phases, [*labels, phase], spread)
        rows.add_metric(labels, _row_buckets(model.batch_rows), model.executed_rows)
    yield requests
    yield phases
    yield rows


def _add_durations(family: HistogramMetricFamily, labels: list[str], spread: Spread) -> None:
    if not spread.buckets:
        return  # the spread is not recorded
    bounds = (*map(str, HISTOGRAM_BOUNDS_S), "+Inf")
    family.add_metric(
        labels, list(zip(bounds, accumulate(spread.buckets), strict=True)), spread.ns / 1e9
    )


def _row_buckets(batch_rows: dict[int, int]) -> list[tuple[str, float]]:
    buckets: list[tuple[str, float]] = [
        (str(float(bound)), sum(n for rows, n in batch_rows.items() if rows <= bound))
        for bound in BATCH_ROWS_BOUNDS
    ]
    return [*buckets, ("+Inf", sum(batch_rows.values()))]


def _calls(snapshot: Snapshot) -> Metric:
    family = CounterMetricFamily(
        "hlserve_calls",
        "Calls that ended, by gRPC status; refused ones too",
        labels=("service", "method", "status"),
    )
    for call in snapshot.calls:
        family.add_metric([call.service, call.method, call.status], call.count)
    return family


def _processes(pids: tuple[int, ...]) -> Iterator[Metric]:
    """``process_*`` of every process, added up; the oldest start."""
    merged: dict[str, Metric] = {}
    for pid in pids:
        for family in _process(pid):
            known = merged.setdefault(family.name, family)
            if known is family:
                continue
            one, other = known.samples[0], family.samples[0]
            join = min if family.name == "process_start_time_seconds" else sum
            known.samples[0] = one._replace(value=join((one.value, other.value)))
    yield from merged.values()


def _process(pid: int) -> Iterable[Metric]:
    return ProcessCollector(pid=lambda: pid, registry=None).collect()


def _labels(model: ModelSnapshot) -> dict[str, str]:
    return {"model": model.name, "version": str(model.version)}


def _with_triton_headers(text: bytes) -> bytes:
    """Triton's counters under their own names: the library ends a counter's header in _total."""
    for name in (*(name for name, _, _ in _TRITON_COUNTERS), _FAILURES):
        for keyword in ("HELP", "TYPE"):
            ending = f"# {keyword} {name}_total ".encode()
            text = text.replace(ending, f"# {keyword} {name} ".encode(), 1)
    return text
