"""Where a server listens, and how: what every transport is told."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hlserve.errors import UnavailableError
from hlserve.serving.limits import LimitsConfig
from hlserve.serving.tls import TlsConfig

_PROBE_TIMEOUT_S = 1.0
_PRIVATE = 0o177


@dataclass(frozen=True, slots=True)
class Listening:
    """Addresses and their protection.

    Attributes:
        host: TCP address to bind; an empty one: no TCP.
        port: 0 = a free one.
        unix_socket: a path to listen on as well; None: no.
        tls: of the TCP address; None: plain text.
        limits: of connections and messages.
        shares_port: other processes listen on the same port.
    """

    host: str = "127.0.0.1"
    port: int = 0
    unix_socket: Path | None = None
    tls: TlsConfig | None = None
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    shares_port: bool = False

    @property
    def address(self) -> str:
        """``host:port``, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def remove_stale_socket(path: Path) -> None:
    """Removes a socket that a server left behind when it was killed.

    Raises:
        UnavailableError: somebody listens on it, or the path is no socket.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UnavailableError(f"cannot listen on {path}: it is there already, and no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UnavailableError(f"cannot listen on {path}: {error.strerror}") from error
        else:
            raise UnavailableError(f"cannot listen on {path}: another process does")


@contextmanager
def private_files() -> Iterator[None]:
    """What is made inside is the owner's only: a socket's mode cannot be given at its making."""
    before = os.umask(_PRIVATE)
    try:
        yield
    finally:
        os.umask(before)


def address_refused(address: str) -> UnavailableError:
    """For a TCP address that could not be bound."""
    return UnavailableError(
        f"cannot listen on {address}: the port is in use, or the address is not this machine's: "
        "choose another --port (0: a free one) or --host"
    )


def socket_refused(path: Path) -> UnavailableError:
    """For a Unix socket that could not be bound."""
    return UnavailableError(
        f"cannot listen on {path}: its folder is missing or not writable, or the path is longer "
        "than 107 bytes"
    )
