"""``hlserve bench``: load on a running server, and what its callers see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hlserve.cli.connecting import connection_options

_CALLERS = 8
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(name="bench")
@click.argument("address")
@click.argument("model")
@click.option("--version", default="", help="The model's version; without one, the latest.")
@click.option(
    "--callers",
    type=click.IntRange(1),
    help=f"Closed loop: so many requests in flight.  [default: {_CALLERS}]",
)
@click.option("--rate", type=float, help="Open loop: requests a second, whatever comes back.")
@click.option("--rates", metavar="R,R,...", help="Open loops one after the other.")
@click.option(
    "--arrivals",
    type=click.Choice(["poisson", "constant"]),
    default="poisson",
    show_default=True,
    help="Of the open loop.",
)
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=5.0, show_default=True)
@click.option("--rows", type=click.IntRange(1), default=1, show_default=True, help="Of a request.")
@click.option("--data", type=_FILE, help="A .npz or .npy file of rows; without one, made up.")
@click.option("--input", "source", help="One input, as `hlserve predict` takes it.")
@click.option("--connections", type=click.IntRange(1), default=4, show_default=True)
@click.option("--timeout-s", type=click.FloatRange(0, min_open=True), default=60.0)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--server-pid", type=click.IntRange(1), help="For the server's processor time.")
@connection_options
@click.option("--json", "json_file", type=_FILE, help="Also write the figures to this file.")
@click.option("--plot", type=_FILE, help="Also draw them: .svg, .png or .pdf.")
def command(address: str, model: str, version: str, **options: Any) -> None:
    """Put load on MODEL of the server at ADDRESS, and tell throughput, latency and errors.

    A closed loop (--callers) asks again when an answer has come: it finds the most that a server
    can do. An open loop (--rate) asks at its own times, as users do; a latency counts from when
    the request was meant to be sent, so that a stalled server shows. Ctrl-C ends a run early and
    tells what was measured.

    \b
    Examples:
      hlserve bench localhost:8001 fashion
      hlserve bench localhost:8001 fashion --rate 500 --plot latency.svg
      hlserve bench localhost:8001 fashion --rates 100,200,400 --json sweep.json
      hlserve bench localhost:8001 fashion --data rows.npz --rows 8 --callers 32
    """  # noqa: D301 - click's mark for a block that keeps its lines
    from hlserve.cli.benchmarking import bench
    from hlserve.errors import ConfigError

    callers = options.pop("callers")
    if callers is not None and (options["rate"] is not None or options["rates"] is not None):
        raise ConfigError("give --callers (a closed loop) or --rate or --rates (open ones)")
    for line in bench(address, model, version, callers=callers or _CALLERS, **options):
        click.echo(line)
