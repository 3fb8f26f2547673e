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
# Another at each request: to keep them would only push the others out.
_DIFFERING = frozenset(("grpc-timeout", "traceparent", "tracestate", "x-request-id"))
_MAX_KEPT_BYTES = 256


@dataclass(slots=True)  # not frozen: one is made for every request that differs
class RequestHead:
    """A request's headers.

    Attributes:
        path: the method called; empty where ``refusal`` is set.
        timeout_s: from ``grpc-timeout``; None: no deadline.
        encoding: from ``grpc-encoding``.
        metadata: the client's own headers; several of one name are joined by commas; binary ones
            (``-bin``) are left out.
        refusal: the block that answers a request which is no call; None: it is one.
        size_bytes: of the fields, by RFC 9113's count.
    """

    path: str
    timeout_s: float | None = None
    encoding: str = "identity"
    metadata: dict[str, str] = field(default_factory=dict)
    refusal: bytes | None = None
    size_bytes: int = 0


class RequestReader:
    """Reads header blocks of one connection; a field that was checked once is not checked again.

    Args:
        max_metadata_bytes: of one call's headers, by RFC 9113's count of 32 bytes a field.
    """

    def __init__(self, max_metadata_bytes: int) -> None:
        self._max_metadata_bytes = max_metadata_bytes
        self._fields: dict[Field, _CheckedField] = {}
        self._names: dict[bytes, tuple[str, _Kind]] = {}

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
            name, value, kind, field_bytes = known.get(pair) or self._checked(pair)
            size_bytes += field_bytes
            if kind is _Kind.PSEUDO:
                if headers or metadata or name in pseudo:
                    raise MalformedRequestError(f"pseudo-header {name!r}")
                pseudo[name] = value
            elif kind is _Kind.TRANSPORT:
                headers[name] = value
            else:
                metadata[name] = f"{metadata[name]},{value}" if name in metadata else value
        if not pseudo.get(":path") or ":method" not in pseudo or ":scheme" not in pseudo:
            raise MalformedRequestError("a pseudo-header is missing")
        if size_bytes > self._max_metadata_bytes:
            return RequestHead("", refusal=self._too_large(size_bytes))
        return _head(pseudo, headers, metadata, size_bytes)

    def extend(self, head: RequestHead, fields: list[Field]) -> RequestHead | None:
        """What ``fields`` after those of ``head`` make of it; None: ask for all of them.

        Raises:
            MalformedRequestError: they make it none.
        """
        timeout_s, metadata, size_bytes = head.timeout_s, head.metadata.copy(), head.size_bytes
        known = self._fields
        for pair in fields:
            name, value, kind, field_bytes = known.get(pair) or self._checked(pair)
            size_bytes += field_bytes
            if kind is _Kind.METADATA and name not in metadata:
                metadata[name] = value
            elif name == "grpc-timeout" and timeout_s is None:
                try:
                    timeout_s = parse_timeout_s(value)
                except ValueError:
                    return None
            else:
                return None
        if head.refusal is not None or size_bytes > self._max_metadata_bytes:
            return None
        return RequestHead(head.path, timeout_s, head.encoding, metadata, None, size_bytes)

    def _too_large(self, size_bytes: int) -> bytes:
        return grpc_status.trailers_only(
            "RESOURCE_EXHAUSTED",
            f"the headers hold {size_bytes} bytes, at most {self._max_metadata_bytes} are taken",
        )

    def _checked(self, pair: Field) -> _CheckedField:
        raw_name, raw_value = pair
        if raw_value.translate(None, _BAD_VALUE_BYTES) != raw_value:
            raise MalformedRequestError(f"value of header {raw_name!r}")
        name, kind = self._names.get(raw_name) or self._checked_name(raw_name)
        value = raw_value.decode("latin-1")
        if name == "te" and value != "trailers":
            raise MalformedRequestError("header 'te'")
        size = len(raw_name) + len(raw_value)
        checked = (name, value, kind, size + _FIELD_BYTES)
        if size <= _MAX_KEPT_BYTES and name not in _DIFFERING:
            if len(self._fields) >= _MAX_KEPT_FIELDS:
                self._fields.clear()
            self._fields[pair] = checked
        return checked

    def _checked_name(self, raw_name: bytes) -> tuple[str, _Kind]:
        checked = _check_name(raw_name)
        if len(raw_name) <= _MAX_KEPT_BYTES:
            if len(self._names) >= _MAX_KEPT_FIELDS:
                self._names.clear()
            self._names[raw_name] = checked
        return checked


class _Kind(Enum):
    PSEUDO = auto()
    TRANSPORT = auto()
    METADATA = auto()


_CheckedField = tuple[str, str, _Kind, int]  # with its size by RFC 9113's count


def _check_name(raw_name: bytes) -> tuple[str, _Kind]:
    """Text and kind of a name, checked as sections 8.2 and 8.3 ask."""
    name = raw_name.decode("latin-1")
    if name in _PSEUDO:
        return name, _Kind.PSEUDO
    if not name or ":" in name or raw_name.translate(None, _BAD_NAME_BYTES) != raw_name:
        raise MalformedRequestError(f"header name {name!r}")
    if name in _FORBIDDEN:
        raise MalformedRequestError(f"header {name!r}")
    return name, _Kind.METADATA if _is_metadata(name) else _Kind.TRANSPORT


def _head(
    pseudo: Mapping[str, str],
    headers: Mapping[str, str],
    metadata: dict[str, str],
    size_bytes: int,
) -> RequestHead:
    refusal = _refusal(pseudo, headers)
    if refusal is not None:
        return RequestHead("", refusal=refusal)
    try:
        timeout_s = parse_timeout_s(headers.get("grpc-timeout"))
    except ValueError as error:
        return RequestHead("", refusal=grpc_status.trailers_only("INTERNAL", str(error)))
    encoding = headers.get("grpc-encoding", "identity")
    return RequestHead(pseudo[":path"], timeout_s, encoding, metadata, None, size_bytes)


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
