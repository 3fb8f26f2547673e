"""``hlserve serve``: a folder of models behind a port."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from hlserve.serving.server import Server

_Command = TypeVar("_Command", bound=Callable[..., Any])

_LOG_LEVELS = ("debug", "info", "warning", "error")
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def _option(name: str, **attributes: Any) -> Callable[[_Command], _Command]:
    """An option that HLSERVE_<NAME> in the environment sets too."""
    variable = "HLSERVE_" + name.removeprefix("--").replace("-", "_").upper()
    return click.option(name, envvar=variable, show_envvar=True, show_default=True, **attributes)


@click.command(name="serve")
@click.argument(
    "models", type=click.Path(path_type=Path), envvar="HLSERVE_MODELS", metavar="MODELS_DIR"
)
@_option("--host", default="127.0.0.1", help="Address to bind; 0.0.0.0 for every interface.")
@_option("--port", type=click.IntRange(0, 65535), default=8001, help="0 takes a free one.")
@_option(
    "--max-batch-size", type=click.IntRange(1), default=64, help="Most rows in one joined run."
)
@_option(
    "--max-queue-delay-us",
    type=click.IntRange(0),
    default=0,
    help="How long the first row waits for company.",
)
@_option(
    "--max-queue-rows",
    type=click.IntRange(1),
    default=4096,
    help="Waiting rows of a model beyond which requests are refused.",
)
@_option(
    "--intra-op-threads",
    type=click.IntRange(0, 1024),
    default=1,
    help="Threads of one run; 0 takes one a core.",
)
@_option("--provider", default="cpu", help="Where models run: cpu, cuda or tensorrt.")
@_option(
    "--drain-timeout-s",
    type=click.FloatRange(0),
    default=30.0,
    help="How long requests in flight may take after SIGTERM.",
)
@_option(
    "--transport",
    type=click.Choice(("grpcio", "http2")),
    default="grpcio",
    help="http2: our own, which costs less for each request.",
)
@_option("--log-level", type=click.Choice(_LOG_LEVELS), default="info", help="To stderr.")
def command(models: Path, log_level: str, **options: Any) -> int:
    """Serve every model in MODELS_DIR over gRPC (Open Inference Protocol v2).

    Every option can also be given in the environment. SIGTERM drains: not ready first, then
    requests in flight finish; a second SIGTERM ends at once.

    \b
    Examples:
      hlserve serve models
      hlserve serve models --port 9000 --max-batch-size 128
      HLSERVE_HOST=0.0.0.0 hlserve serve models
    """  # noqa: D301 - click's mark for a block that keeps its lines
    logging.basicConfig(level=log_level.upper(), format=_LOG_FORMAT, stream=sys.stderr)
    from hlserve.serving.config import BatchingConfig, ServerConfig
    from hlserve.serving.server import serve

    config = ServerConfig(
        models=models,
        host=options["host"],
        port=options["port"],
        batching=BatchingConfig(
            max_rows=options["max_batch_size"],
            max_queue_delay_s=options["max_queue_delay_us"] / 1e6,
            max_queue_rows=options["max_queue_rows"],
        ),
        provider=options["provider"],
        intra_op_threads=options["intra_op_threads"],
        drain_timeout_s=options["drain_timeout_s"],
        transport=options["transport"],
    )

    def on_ready(server: Server) -> None:
        names = ", ".join(f"{model.name} v{model.version}" for model in server.models)
        click.echo(f"serving {names} on {config.host}:{server.port}")
        sys.stdout.flush()

    with asyncio.Runner(loop_factory=_loop_factory(config.transport)) as runner:
        is_clean = runner.run(serve(config, on_ready=on_ready))
    return 0 if is_clean else 1


def _loop_factory(transport: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """For our own transport uvloop's where it is installed; grpcio brings a loop of its own."""
    if transport != "http2":
        return None
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
