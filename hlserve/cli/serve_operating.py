"""Options of ``hlserve serve`` for operators: TLS, keys, limits, sockets and processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hlserve.cli.serve_option import option
from hlserve.errors import ConfigError

if TYPE_CHECKING:
    from hlserve.serving.config import ServerConfig

_Command = TypeVar("_Command", bound=Callable[..., Any])

_MIB = 2**20
_FILE = click.Path(path_type=Path)

_OPTIONS = (
    click.option("--check", is_flag=True, help="Load everything, print a table, serve nothing."),
    option("--tls-cert", type=_FILE, help="PEM certificate; read again when it changes."),
    option("--tls-key", type=_FILE, help="Its key, PEM without a password."),
    option("--tls-client-ca", type=_FILE, help="Clients must show a certificate of this one."),
    option("--api-key-file", type=_FILE, help="TOML or JSON: keys by group of calls."),
    option("--unix-socket", type=_FILE, help="Listen here as well; only there with --host ''."),
    option("--processes", type=click.IntRange(1), default=1, help="That serve one port."),
    click.option("--worker-fd", type=int, hidden=True),  # set by our own supervisor
    click.option("--worker-port", type=int, hidden=True),  # it also; the port that was bound
    option("--max-message-mb", type=click.IntRange(1, 2047), default=64, help="Of one request."),
    option(
        "--max-tensor-elements", type=click.IntRange(1), default=64 * _MIB, help="Of one input."
    ),
    option(
        "--max-concurrent-requests",
        type=click.IntRange(1),
        default=4096,
        help="Further ones are refused at once.",
    ),
    option(
        "--max-in-flight-mb",
        type=click.IntRange(1),
        default=1024,
        help="Of all requests taken at once.",
    ),
    option("--max-connections", type=click.IntRange(1), default=10_000, help="Open at once."),
    option(
        "--max-connection-age-s",
        type=click.FloatRange(0),
        default=0.0,
        help="Then a client connects anew; 0: never.",
    ),
)


def operating_options(command: _Command) -> _Command:
    """Adds the options to the command."""
    for add in reversed(_OPTIONS):
        command = add(command)
    return command


def operating_config(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the options mean, as arguments of ``ServerConfig``.

    Raises:
        ConfigError: only one half of TLS is given.
    """
    from hlserve.serving.limits import LimitsConfig
    from hlserve.serving.tls import TlsConfig

    certificate, key, client_ca = (options[f"tls_{name}"] for name in ("cert", "key", "client_ca"))
    if (certificate is None) != (key is None) or (client_ca is not None and certificate is None):
        raise ConfigError("TLS needs both --tls-cert and --tls-key")
    return {
        "tls": None if certificate is None else TlsConfig(certificate, key, client_ca),
        "api_key_file": options["api_key_file"],
        "unix_socket": options["unix_socket"],
        "processes": options["processes"],
        "limits": LimitsConfig(
            max_message_bytes=options["max_message_mb"] * _MIB,
            max_tensor_elements=options["max_tensor_elements"],
            max_concurrent_requests=options["max_concurrent_requests"],
            max_in_flight_bytes=options["max_in_flight_mb"] * _MIB,
            max_connections=options["max_connections"],
            max_connection_age_s=options["max_connection_age_s"],
        ),
    }


def supervise(config: ServerConfig) -> int:
    """Serves by several processes, each started with this command line; answers the exit code."""
    import asyncio
    import sys

    from hlserve.serving.supervisor import Supervisor

    async def run() -> bool:
        supervisor = Supervisor(config, (sys.executable, "-m", "hlserve", *sys.argv[1:]))

        def on_ready() -> None:
            click.echo(
                f"serving by {config.processes} processes on {config.host}:{supervisor.port}"
            )
            sys.stdout.flush()

        return await supervisor.run(on_ready)

    return 0 if asyncio.run(run()) else 1
