"""Where a server listens, and how: what every transport is told."""

from __future__ import annotations

import os
import socket
import stat
from dataclasses import dataclass, field
from pathlib import Path

from hlserve.errors import UnavailableError
from hlserve.serving.limits import LimitsConfig
from hlserve.serving.tls import TlsConfig

_PROBE_TIMEOUT_S = 1.0


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
