"""``hlserve serve``: a folder of models behind a port."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from hlserve.cli.serve_check import check
from hlserve.cli.serve_operating import operating_config, operating_options, supervise
from hlserve.cli.serve_option import option

if TYPE_CHECKING:
    from hlserve.serving.observing import (
        LogConfig,
        MetricsConfig,
        TraceExporter,
        TracingConfig,
    )
    from hlserve.serving.server import Server

_Command = TypeVar("_Command", bound=Callable[..., Any])

_LOG_LEVELS = ("debug", "info", "warning", "error")


def _control_options(command: _Command) -> _Command:
    """Which models are loaded, and who says so."""
    for add in (
        option(
            "--poll-interval-s",
            type=click.FloatRange(0, min_open=True),
            default=15.0,
            help="How long --model-control poll waits between two looks.",
        ),
        click.option(
            "--load-model",
            "load_models",
            multiple=True,
            metavar="NAME",
            help="Loaded at the start with --model-control explicit; may be repeated, '*': all.",
        ),
        option(
            "--model-control",
            type=click.Choice(("none", "explicit", "poll")),
            default="none",
            help="Who loads models later: nobody, calls, or a look at MODELS_DIR.",
        ),
    ):
        command = add(command)
    return command


def _observing_options(command: _Command) -> _Command:
    """Metrics, traces and the log."""
    for add in reversed(
        (
            option(
                "--metrics-port",
                type=click.IntRange(0, 65535),
                default=8002,
                help="GET /metrics, for Prometheus; 0 takes a free one.",
            ),
            option("--metrics-host", help="Address to bind for metrics.  [default: --host]"),
            option("--no-metrics", is_flag=True, help="No metrics, and no histograms."),
            option(
                "--trace",
                type=click.Choice(("none", "console", "otlp")),
                default="none",
                help="Where OpenTelemetry spans go; needs hlserve[otel].",
            ),
            option(
                "--trace-otlp",
                metavar="ENDPOINT",
                help="Send spans there, else as the OTEL_* variables say.",
            ),
            option(
                "--trace-rate",
                type=click.FloatRange(0, 1),
                default=1.0,
                help="Share of calls traced where the caller has not decided.",
            ),
            option(
                "--log-level", type=click.Choice(_LOG_LEVELS), default="info", help="To stderr."
            ),
            option("--log-format", type=click.Choice(("plain", "json")), default="plain"),
            option("--access-log", is_flag=True, help="A line a call."),
        )
    ):
        command = add(command)
    return command


@click.command(name="serve")
@click.argument(
    "models", type=click.Path(path_type=Path), envvar="HLSERVE_MODELS", metavar="MODELS_DIR"
)
@option("--host", default="127.0.0.1", help="0.0.0.0: every interface; empty: no TCP.")
@option("--port", type=click.IntRange(0, 65535), default=8001, help="0 takes a free one.")
@option("--max-batch-size", type=click.IntRange(1), default=64, help="Most rows in one joined run.")
@option(
    "--max-queue-delay-us",
    type=click.IntRange(0),
    default=0,
    help="How long the first row waits for company.",
)
@option(
    "--max-queue-rows",
    type=click.IntRange(1),
    default=4096,
    help="Waiting rows of a model beyond which requests are refused.",
)
@option(
    "--intra-op-threads",
    type=click.IntRange(0, 1024),
    default=1,
    help="Threads of one run; 0 takes one a core.",
)
@option(
    "--threads",
    type=click.IntRange(0, 1024),
    default=0,
    help="Threads of all runs of all models together; 0 takes one a core.",
)
@option("--provider", default="cpu", help="Where models run: cpu, cuda or tensorrt.")
@option(
    "--drain-timeout-s",
    type=click.FloatRange(0),
    default=30.0,
    help="How long requests in flight may take after SIGTERM.",
)
@option(
    "--transport",
    type=click.Choice(("auto", "grpcio", "http2")),
    default="auto",
    help="What speaks HTTP/2; http2, our own, costs the least. auto: grpcio, for now.",
)
@option(
    "--system-shared-memory/--no-system-shared-memory",
    default=False,
    help="Let clients on this machine name regions of /dev/shm to read and write.",
)
@_control_options
@_observing_options
@operating_options
def command(models: Path, **options: Any) -> int:
    """Serve every model in MODELS_DIR over gRPC (Open Inference Protocol v2).

    Every option can also be given in the environment. SIGTERM drains: not ready first, then
    requests in flight finish; a second SIGTERM ends at once.

    \b
    Examples:
      hlserve serve models
      hlserve serve models --check
      hlserve serve models --port 9000 --max-batch-size 128
      HLSERVE_HOST=0.0.0.0 hlserve serve models
    """  # noqa: D301 - click's mark for a block that keeps its lines
    from hlserve.serving import logs
    from hlserve.serving.config import BatchingConfig, ControlConfig, ServerConfig

    metrics, tracing, log = _observing(options)
    logs.configure(log)
    config = ServerConfig(
        models=models,
        host=options["host"],
        port=options["port"] if options["worker_port"] is None else options["worker_port"],
        batching=BatchingConfig(
            max_rows=options["max_batch_size"],
            max_queue_delay_s=options["max_queue_delay_us"] / 1e6,
            max_queue_rows=options["max_queue_rows"],
        ),
        provider=options["provider"],
        intra_op_threads=options["intra_op_threads"],
        threads=options["threads"],
        drain_timeout_s=options["drain_timeout_s"],
        transport=options["transport"],
        shared_memory=options["system_shared_memory"],
        control=ControlConfig(
            mode=options["model_control"],
            load_models=options["load_models"],
            poll_interval_s=options["poll_interval_s"],
        ),
        **operating_config(options),
        metrics=metrics,
        tracing=tracing,
        log=log,
    )

    if options["check"]:
        return check(config)
    worker_descriptor = options["worker_fd"]
    if config.processes > 1 and worker_descriptor is None:
        return supervise(config)
    # gRPC and ONNX Runtime: a supervisor needs neither.
    from hlserve.serving.server import loop_factory, serve

    def on_ready(server: Server) -> None:
        if worker_descriptor is not None:
            return  # the supervisor says it, once for all
        names = ", ".join(f"{model.name} v{model.version}" for model in server.models)
        click.echo(f"serving {names or 'no model yet'} on {server.address}")
        sys.stdout.flush()

    with asyncio.Runner(loop_factory=loop_factory(config.wire)) as runner:
        is_clean = runner.run(serve(config, on_ready=on_ready, worker_descriptor=worker_descriptor))
    if not is_clean:
        _end_now(1)
    return 0


def _end_now(code: int) -> NoReturn:
    """Ends the process; the interpreter's own end would wait for the runs that were given up."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _observing(
    options: dict[str, Any],
) -> tuple[MetricsConfig | None, TracingConfig | None, LogConfig]:
    from hlserve.serving.observing import LogConfig, MetricsConfig, TracingConfig

    metrics = None
    if not options["no_metrics"]:
        metrics = MetricsConfig(host=options["metrics_host"] or "", port=options["metrics_port"])
    tracing = None
    endpoint = options["trace_otlp"]
    if options["trace"] != "none" or endpoint is not None:
        exporter: TraceExporter = "console" if options["trace"] == "console" else "otlp"
        tracing = TracingConfig(exporter, endpoint, options["trace_rate"])
    log = LogConfig(options["log_level"], options["log_format"], options["access_log"])
    return metrics, tracing, log
