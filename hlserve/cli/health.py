"""``hlserve health``: the standard health check, for a container's HEALTHCHECK."""

from __future__ import annotations

import click

from hlserve.cli.connecting import Connecting, connection_options

_TIMEOUT_S = 5.0


@click.command(name="health")
@click.argument("address", default="127.0.0.1:8001")
@click.option("--service", default="", help="A gRPC service; without one, the whole server.")
@click.option("--timeout-s", type=click.FloatRange(0), default=_TIMEOUT_S, show_default=True)
@connection_options
def command(address: str, service: str, timeout_s: float, connecting: Connecting) -> int:
    """Ask the server at ADDRESS whether it takes requests; exit code 0 if it does, else 1.

    \b
    Examples:
      hlserve health
      hlserve health localhost:8001 --service inference.GRPCInferenceService
    """  # noqa: D301 - click's mark for a block that keeps its lines
    from hlserve.client import InferenceClient

    with InferenceClient(address, timeout_s=timeout_s, **connecting) as client:
        is_healthy = client.is_healthy(service)
    click.echo("SERVING" if is_healthy else "NOT_SERVING")
    return 0 if is_healthy else 1
