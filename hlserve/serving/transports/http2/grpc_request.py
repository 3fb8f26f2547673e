"""What the headers of a request say: an HTTP/2 request (RFC 9113, section 8.3) that is a gRPC call.

Made once for each different header block, so it holds nothing of one call alone; a deadline is
kept as the seconds that the client gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from hlserve.serving.transports.http2 import grpc_status
from hlserve.serving.transports.http2.frames import MalformedRequestError
from hlserve.serving.transports.http2.grpc_framing import ENCODINGS
from hlserve.serving.transports.http2.headers import Field

_PSEUDO = (":method", ":scheme", ":path", ":authority")
# Section 8.2.2: they belong to one HTTP/1 connection.
_FORBIDDEN = frozenset(
    ("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade")
)
# Not the client's metadata: they speak to the transport, as everything that begins with ``grpc-``.
_TRANSPORT = frozenset(("te", "content-type", "content-length"))
_CONTENT_TYPES = ("application/grpc", "application/grpc+proto")
_TIMEOUT_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MAX_TIMEOUT_DIGITS = 8
_BAD_NAME_BYTES = bytes(range(0x21)) + bytes(range(0x41, 0x5B)) + bytes(range(0x7F, 0x100))
_BAD_VALUE_BYTES = b"\0\r\n"
_FIELD_BYTES = 32
_MAX_KEPT_FIELDS = 128
_MAX_KEPT_BYTES = 256


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request's headers.

    Attributes:
        path: the method called; empty where ``refusal`` is set.
        timeout_s: from ``grpc-timeout``; None: no deadline.
        encoding: from ``grpc-encoding``.
        metadata: the client's own headers; several of one name are joined by commas; binary ones
            (``-bin``) are left out.
        refusal: the block that answers a request which is no call; None: it is one.
    """

    path: str
    timeout_s: float | None = None
    encoding: str = "identity"
    metadata: Mapping[str, str] = field(default_factory=dict)
    refusal: bytes | None = None


class RequestReader:
    """Reads header blocks of one connection; a field that was checked once is not checked again.

    Args:
        max_metadata_bytes: of one call's headers, by RFC 9113's count of 32 bytes a field.
    """

    def __init__(self, max_metadata_bytes: int) -> None:
        self._max_metadata_bytes = max_metadata_bytes
        self._fields: dict[Field, _CheckedField] = {}

    def __call__(self, fields: list[Field]) -> RequestHead:
        """What a block says.

        Raises:
            MalformedRequestError: it is no HTTP/2 request.
        """
        pseudo: dict[str, str] = {}
        headers: dict[str, str] = {}
        metadata: dict[str, str] = {}
        known = self._fields
        size_bytes = 0
        for pair in fields:
            size_bytes += len(pair[0]) + len(pair[1]) + _FIELD_BYTES
            name, value, kind = known.get(pair) or self._checked(pair)
            if kind is _Kind.PSEUDO:
                if headers or name in pseudo:
                    raise MalformedRequestError(f"pseudo-header {name!r}")
                pseudo[name] = value
                continue
            headers[name] = value
            if kind is _Kind.METADATA:
                metadata[name] = f"{metadata[name]},{value}" if name in metadata else value
        if not pseudo.get(":path") or ":method" not in pseudo or ":scheme" not in pseudo:
            raise MalformedRequestError("a pseudo-header is missing")
        if size_bytes > self._max_metadata_bytes:
            return RequestHead("", refusal=self._too_large(size_bytes))
        return _head(pseudo, headers, metadata)

    def _too_large(self, size_bytes: int) -> bytes:
        return grpc_status.trailers_only(
            "RESOURCE_EXHAUSTED",
            f"the headers hold {size_bytes} bytes, at most {self._max_metadata_bytes} are taken",
        )

    def _checked(self, pair: Field) -> _CheckedField:
        checked = _check(pair)
        if len(pair[0]) + len(pair[1]) <= _MAX_KEPT_BYTES:
            if len(self._fields) >= _MAX_KEPT_FIELDS:
                self._fields.clear()
            self._fields[pair] = checked
        return checked


class _Kind(Enum):
    PSEUDO = auto()
    TRANSPORT = auto()
    METADATA = auto()


_CheckedField = tuple[str, str, _Kind]


def _check(pair: Field) -> _CheckedField:
    """Text and kind of one field, checked as sections 8.2 and 8.3 ask."""
    raw_name, raw_value = pair
    name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
    if raw_value.translate(None, _BAD_VALUE_BYTES) != raw_value:
        raise MalformedRequestError(f"value of header {name!r}")
    if name in _PSEUDO:
        return name, value, _Kind.PSEUDO
    if not name or ":" in name or raw_name.translate(None, _BAD_NAME_BYTES) != raw_name:
        raise MalformedRequestError(f"header name {name!r}")
    if name in _FORBIDDEN or (name == "te" and value != "trailers"):
        raise MalformedRequestError(f"header {name!r}")
    return name, value, _Kind.METADATA if _is_metadata(name) else _Kind.TRANSPORT


def _head(
    pseudo: Mapping[str, str], headers: Mapping[str, str], metadata: Mapping[str, str]
) -> RequestHead:
    refusal = _refusal(pseudo, headers)
    if refusal is not None:
        return RequestHead("", refusal=refusal)
    try:
        timeout_s = parse_timeout_s(headers.get("grpc-timeout"))
    except ValueError as error:
        return RequestHead("", refusal=grpc_status.trailers_only("INTERNAL", str(error)))
    encoding = headers.get("grpc-encoding", "identity")
    return RequestHead(pseudo[":path"], timeout_s, encoding, metadata)


def _refusal(pseudo: Mapping[str, str], headers: Mapping[str, str]) -> bytes | None:
    if pseudo[":method"] != "POST":
        return grpc_status.http_error(405, "gRPC calls are POST")
    content_type = headers.get("content-type", "")
    if content_type not in _CONTENT_TYPES and content_type.partition(";")[0] not in _CONTENT_TYPES:
        return grpc_status.http_error(
            415, f"content-type is {content_type[:100]!r}, expected application/grpc"
        )
    encoding = headers.get("grpc-encoding", "identity")
    if encoding not in ENCODINGS:
        return grpc_status.trailers_only(
            "UNIMPLEMENTED", f"grpc-encoding is {encoding[:100]!r}, expected one of {ENCODINGS}"
        )
    return None


def _is_metadata(name: str) -> bool:
    return not (name in _TRANSPORT or name.startswith("grpc-") or name.endswith("-bin"))


def parse_timeout_s(text: str | None) -> float | None:
    """Seconds from ``grpc-timeout``: at most 8 digits and a unit.

    Raises:
        ValueError: it is none.
    """
    if text is None:
        return None
    digits, unit = text[:-1], _TIMEOUT_UNITS_S.get(text[-1:])
    if unit is None or not digits.isascii() or not digits.isdigit():
        raise ValueError(f"grpc-timeout is {text[:20]!r}, expected digits and one of HMSmun")
    if len(digits) > _MAX_TIMEOUT_DIGITS:
        raise ValueError(f"grpc-timeout is {text[:20]!r}, expected at most 8 digits")
    return int(digits) * unit
