"""Options of every command that asks a server: how it connects, and its API key."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import click

if TYPE_CHECKING:
    from hlserve.client import Tls

_Command = TypeVar("_Command", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path, dir_okay=False)

# HLSERVE_TLS_CERT and HLSERVE_TLS_KEY are the server's own, so ours have no variable of that name.
_OPTIONS = (
    click.option(
        "--api-key",
        envvar="HLSERVE_API_KEY",
        show_envvar=True,
        help="Sent with every call; in the environment no other user sees it.",
    ),
    click.option("--tls", is_flag=True, help="Encrypt; public authorities are trusted."),
    click.option(
        "--tls-ca",
        type=_FILE,
        envvar="HLSERVE_TLS_CA",
        show_envvar=True,
        help="Encrypt; PEM file of the authorities that are trusted.",
    ),
    click.option("--tls-cert", type=_FILE, help="PEM certificate to show the server."),
    click.option("--tls-key", type=_FILE, help="Its key."),
    click.option(
        "--tls-server-name",
        envvar="HLSERVE_TLS_SERVER_NAME",
        show_envvar=True,
        help="In the server's certificate, where it is not the address.",
    ),
)


class Connecting(TypedDict):
    """Arguments of a client, beside the address.

    Attributes:
        api_key: None: none is sent.
        tls: None: not encrypted.
    """

    api_key: str | None
    tls: Tls | None


def connection_options(command: _Command) -> Callable[..., Any]:
    """Adds the options to a command, which gets them as ``connecting``."""

    @functools.wraps(command)
    def connected(
        *args: Any,
        api_key: str | None,
        tls: bool,
        tls_ca: Path | None,
        tls_cert: Path | None,
        tls_key: Path | None,
        tls_server_name: str | None,
        **options: Any,
    ) -> Any:
        from hlserve.client import Tls  # gRPC: not for --help

        given = Tls(tls_ca, tls_cert, tls_key, tls_server_name)
        is_encrypted = tls or given != Tls()
        connecting = Connecting(api_key=api_key, tls=given if is_encrypted else None)
        return command(*args, connecting=connecting, **options)

    for add in reversed(_OPTIONS):
        connected = add(connected)
    return connected
