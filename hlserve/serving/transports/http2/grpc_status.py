"""How a call ends on the wire (grpc/doc/PROTOCOL-HTTP2.md, "Responses"): constant header blocks."""

from __future__ import annotations

from hlserve.serving.transports.http2.headers import encode
from hlserve.serving.transports.status import STATUS_NUMBERS

# With those that only a transport gives.
_NUMBERS = {**STATUS_NUMBERS, "OK": 0, "RESOURCE_EXHAUSTED": 8}

_RESPONSE_FIELDS = (
    (b":status", b"200"),
    (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", b"identity, deflate, gzip"),
)
RESPONSE_HEAD = encode(_RESPONSE_FIELDS)
OK_TRAILERS = encode([(b"grpc-status", b"0")])


class GrpcStatusError(Exception):
    """A call that the transport itself refuses.

    Attributes:
        status: the name, such as ``UNIMPLEMENTED``.
        details: for the client.
    """

    def __init__(self, status: str, details: str) -> None:
        super().__init__(f"{status}: {details}")
        self.status = status
        self.details = details


def trailers(status: str, details: str) -> bytes:
    """The block that ends a call whose headers are out."""
    return encode(_status_fields(status, details))


def trailers_only(status: str, details: str) -> bytes:
    """The block that is a whole answer."""
    return encode([*_RESPONSE_FIELDS, *_status_fields(status, details)])


def http_error(status: int, details: str = "") -> bytes:
    """The whole answer to a request that is not gRPC."""
    return encode([(b":status", b"%d" % status), (b"grpc-message", percent_encoded(details))])


def _status_fields(status: str, details: str) -> list[tuple[bytes, bytes]]:
    fields = [(b"grpc-status", b"%d" % _NUMBERS[status])]
    if details:
        fields.append((b"grpc-message", percent_encoded(details)))
    return fields


_PLAIN = {code: chr(code) for code in range(0x20, 0x7F) if code != 0x25}
_ENCODED = [_PLAIN.get(code, f"%{code:02X}") for code in range(256)]


def percent_encoded(text: str) -> bytes:
    """Text for ``grpc-message``: UTF-8, of which all but printable ASCII is escaped."""
    return "".join(_ENCODED[byte] for byte in text.encode("utf-8", "replace")).encode()
