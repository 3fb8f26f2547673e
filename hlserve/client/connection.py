"""How a client connects: address, encryption, key, compression; and errors in our words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import grpc

from hlserve.codec import MAX_MESSAGE_BYTES
from hlserve.errors import ConfigError, ServerError

Compression = Literal["gzip", "deflate"]

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # gRPC's own first wait after a refused connection, 1 s, would outlast our first retries.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 5000),
)
_COMPRESSIONS = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}
# Of gRPC's naming (grpc/doc/naming.md); the others are URIs that it does not know.
_SCHEMES = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "vsock:", "xds:")
_URI = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_WITH_PORT = re.compile(r"(\[[^\]]+\]|[^:/\s]+):[0-9]{1,5}")
# What gRPC says where no server has answered, as against a server that says UNAVAILABLE.
_NOT_CONNECTED = (
    *("failed to connect", "DNS resolution failed", "connections to all backends"),
    "errors resolving",
)


@dataclass(frozen=True, slots=True)
class Tls:
    """An encrypted connection.

    Attributes:
        ca: PEM file of the authorities that the server's certificate must come from; None: those
            that gRPC brings along.
        certificate: PEM file, where the server asks for one of its clients (mutual TLS).
        key: PEM file, the certificate's private key.
        server_name: what the server's certificate says, where that is not the address's host.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ConfigError: a certificate without its key, or a key without its certificate.
        """
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("mutual TLS needs both, certificate and key: one of them is missing")


@dataclass(frozen=True, slots=True)
class Connection:
    """Where a client connects, and what it sends with every call.

    Attributes:
        address: ``host:port``, or ``unix:/path``.
        tls: None: not encrypted.
        api_key: sent as ``authorization: Bearer KEY``.
        compression: of the messages that are sent; the server answers in kind if it can.
        metadata: headers of every call.
    """

    address: str
    tls: Tls | None = None
    api_key: str | None = field(default=None, repr=False)
    compression: Compression | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ConfigError: the address is none, or an unknown compression.
        """
        _check_address(self.address)
        if self.compression is not None and self.compression not in _COMPRESSIONS:
            raise ConfigError(
                f"compression is {self.compression!r}, expected one of {', '.join(_COMPRESSIONS)}"
            )

    def channel(self) -> grpc.Channel:
        """A blocking channel; it connects at the first call.

        Raises:
            ConfigError: a PEM file cannot be read.
        """
        if self.tls is None:
            return grpc.insecure_channel(self.address, options=_OPTIONS)
        return grpc.secure_channel(self.address, _credentials(self.tls), options=self._options())

    def aio_channel(self) -> grpc.aio.Channel:
        """The same for asyncio; raises as ``channel``."""
        if self.tls is None:
            return grpc.aio.insecure_channel(self.address, options=_OPTIONS)
        credentials = _credentials(self.tls)
        return grpc.aio.secure_channel(self.address, credentials, options=self._options())

    def call_options(self) -> dict[str, Any]:
        """Keyword arguments of every call: headers and compression."""
        headers = [(name.lower(), value) for name, value in self.metadata.items()]
        if self.api_key is not None:
            headers.append(("authorization", f"Bearer {self.api_key}"))
        compression = None if self.compression is None else _COMPRESSIONS[self.compression]
        return {"metadata": tuple(headers), "compression": compression}

    def error(self, error: grpc.RpcError) -> ServerError:
        """What went wrong; where nobody answered, what to look at."""
        status, details = error.code().name, error.details() or "no details"
        if status == "UNAVAILABLE" and details.startswith(_NOT_CONNECTED):
            return ServerError(
                status,
                f"cannot connect to {self.address} {self._hint(details)}",
            )
        if status == "UNAUTHENTICATED":
            details += self._key_hint()
        return ServerError(status, details)

    def _key_hint(self) -> str:
        if self.api_key is None:
            return " (here: --api-key KEY or HLSERVE_API_KEY, in Python api_key=...)"
        return " (the one given by --api-key, HLSERVE_API_KEY or api_key=)"

    def _hint(self, details: str) -> str:
        if self.tls is None:
            return (
                f"without TLS: {details}; is a server running there (hlserve serve MODELS_DIR "
                "--port ...)? One that speaks TLS needs --tls-ca FILE, in Python tls=Tls(ca=...)"
            )
        return (
            f"with TLS: {details}; is a server with TLS running there, and is its certificate "
            "signed by --tls-ca (in Python Tls(ca=...))?"
        )

    def _options(self) -> tuple[tuple[str, Any], ...]:
        name = None if self.tls is None else self.tls.server_name
        return _OPTIONS if name is None else (*_OPTIONS, ("grpc.ssl_target_name_override", name))


def _check_address(address: str) -> None:
    """Without this gRPC would resolve anything, and take port 443 where there is none."""
    if _URI.match(address) and not address.startswith(_SCHEMES):
        raise ConfigError(
            f"the address is {address!r}, expected HOST:PORT or unix:PATH, without a scheme such "
            "as http://"
        )
    if "/" in address and not address.startswith(_SCHEMES):
        raise ConfigError(
            f"the address is {address!r}, expected HOST:PORT, or for a socket unix:{address}"
        )
    if not address.startswith(_SCHEMES) and not _WITH_PORT.fullmatch(address):
        raise ConfigError(
            f"the address is {address!r}, expected HOST:PORT such as {_example(address)}"
        )


def _example(address: str) -> str:
    host = address.rpartition(":")[0] if address.count(":") == 1 else address
    bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"{bracketed or 'localhost'}:8001"


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=_content(tls.ca),
        private_key=_content(tls.key),
        certificate_chain=_content(tls.certificate),
    )


def _content(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
