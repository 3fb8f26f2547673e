"""``hlserve models``: what a server holds; loading, unloading, and what models have done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from hlserve.cli.connecting import Connecting, connection_options
from hlserve.errors import ModelNotReadyError

if TYPE_CHECKING:
    from hlserve.client import ModelStatistics

_TIMEOUT_S = 60.0
_STATISTICS = (
    "model",
    "version",
    "requests",
    "failed",
    "rows",
    "runs",
    "rows a run",
    "queue ms",
    "compute ms",
    "request ms",
)


def _server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for add in (
        connection_options,
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text."),
        click.option(
            "--timeout-s", type=click.FloatRange(0), default=_TIMEOUT_S, show_default=True
        ),
        click.argument("address"),
    ):
        command = add(command)
    return command


@click.group(name="models")
def command() -> None:
    """List, load and unload a running server's models, and show what they have done.

    Loading and unloading need a server that was started for it.

    \b
    Examples:
      hlserve models list localhost:8001
      hlserve models load localhost:8001 fashion
      hlserve models stats localhost:8001 fashion --json
      HLSERVE_API_KEY=... hlserve models list models.example.com:8001 --tls-ca ca.pem
    """  # noqa: D301 - click's mark for a block that keeps its lines


@command.command(name="list")
@_server_options
def list_models(address: str, timeout_s: float, as_json: bool, connecting: Connecting) -> None:
    """List every model in the repository of the server at ADDRESS, with its state."""
    from hlserve.client import InferenceClient

    with InferenceClient(address, timeout_s=timeout_s, **connecting) as client:
        states = client.repository_index()
    if as_json:
        _echo_json([asdict(state) for state in states])
        return
    rows = [(state.name, state.version, state.state, state.reason) for state in states]
    _echo_table(rows, ("model", "version", "state", "reason"))


@command.command(name="load")
@_server_options
@click.argument("name")
def load(address: str, name: str, timeout_s: float, as_json: bool, connecting: Connecting) -> None:
    """Load the model NAME, or load it anew; returns when it takes requests."""
    from hlserve.client import InferenceClient

    with InferenceClient(address, timeout_s=timeout_s, **connecting) as client:
        client.load_model(name)
    _echo_json({"loaded": name}) if as_json else click.echo(f"{name} is loaded")


@command.command(name="unload")
@_server_options
@click.argument("name")
def unload(
    address: str, name: str, timeout_s: float, as_json: bool, connecting: Connecting
) -> None:
    """Unload the model NAME."""
    from hlserve.client import InferenceClient

    with InferenceClient(address, timeout_s=timeout_s, **connecting) as client:
        client.unload_model(name)
    _echo_json({"unloaded": name}) if as_json else click.echo(f"{name} is unloaded")


@command.command(name="stats")
@_server_options
@click.argument("name", default="")
def stats(address: str, name: str, timeout_s: float, as_json: bool, connecting: Connecting) -> None:
    """Show what the model NAME has done since it was loaded; without a name, every model."""
    from hlserve.client import InferenceClient

    with InferenceClient(address, timeout_s=timeout_s, **connecting) as client:
        statistics = client.model_statistics(name)
    if as_json:
        _echo_json([asdict(each) for each in statistics])
        return
    if not statistics:
        raise ModelNotReadyError(
            f"model {name!r} is not loaded, so it has done nothing"
            if name
            else "no model is loaded"
        )
    _echo_table([_row(each) for each in statistics], _STATISTICS)
    click.echo("\nTimes are means for each request that was answered.")


# ----- below


def _row(each: ModelStatistics) -> tuple[str, ...]:
    def mean_ms(ns: int) -> str:
        return f"{ns / each.success.count / 1e6:.3f}" if each.success.count else ""

    runs = each.execution_count
    compute_ns = each.compute_input.ns + each.compute_infer.ns + each.compute_output.ns
    return (
        each.name,
        each.version,
        f"{each.success.count}",
        f"{each.fail.count}",
        f"{each.inference_count}",
        f"{runs}",
        f"{each.inference_count / runs:.1f}" if runs else "",
        mean_ms(each.queue.ns),
        mean_ms(compute_ns),
        mean_ms(each.success.ns),
    )


def _echo_table(rows: Sequence[tuple[str, ...]], headers: Sequence[str]) -> None:
    from tabulate import tabulate  # not in the light client

    click.echo(tabulate(rows, headers=headers, disable_numparse=True))


def _echo_json(content: object) -> None:
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(content)))
