"""gRPC messages in the body of a stream (grpc/doc/PROTOCOL-HTTP2.md): length, flag, compression."""

from __future__ import annotations

import struct
import zlib

from hlserve.serving.transports.http2.grpc_status import GrpcStatusError

PREFIX = struct.Struct(">BI")  # compressed flag, length
PREFIX_BYTES = PREFIX.size

# zlib's window bits for each encoding; gRPC's deflate is the zlib format (RFC 1950).
_WINDOW_BITS = {"gzip": 31, "deflate": 15}
ENCODINGS = ("identity", *_WINDOW_BITS)

_MAX_PIECES = 64


def framed(message: bytes) -> bytes:
    """A message as it travels, not compressed."""
    return PREFIX.pack(0, len(message)) + message


def is_plain_message(body: bytes, max_bytes: int) -> bool:
    """Whether a body is one message, not compressed, of at most ``max_bytes``; nothing else."""
    size = len(body) - PREFIX_BYTES
    return 0 <= size <= max_bytes and PREFIX.unpack_from(body) == (0, size)


class MessageReader:
    """Takes the body of one request piece by piece.

    Args:
        encoding: the request's ``grpc-encoding``.
        max_bytes: bound on one message, before and after decompression.

    Attributes:
        held_bytes: of a message that is not whole.
        error: what ends the body after the messages that were given: one is too large, or is not
            compressed as it says. Nothing after it is read. None: all is well.
    """

    __slots__ = ("_encoding", "_max_bytes", "_needed", "_pieces", "_rest", "error", "held_bytes")

    def __init__(self, encoding: str, max_bytes: int) -> None:
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._rest = bytearray()  # after many pieces: a byte each must not cost an object each
        self._needed = PREFIX_BYTES
        self.held_bytes = 0
        self.error: GrpcStatusError | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are whole now."""
        if self.error is not None:
            return []
        if self._pieces:
            self.held_bytes += len(data)
            if len(self._pieces) < _MAX_PIECES:
                self._pieces.append(data)
            else:
                self._rest += data
            if self.held_bytes < self._needed:
                return []
            data = b"".join((*self._pieces, self._rest))
            self._pieces, self._rest, self.held_bytes = [], bytearray(), 0
        messages: list[bytes] = []
        try:
            self._read(data, messages)
        except GrpcStatusError as error:
            self.error = error
        return messages

    def _read(self, data: bytes, messages: list[bytes]) -> None:
        """Adds the whole messages, keeps the rest; raises what ``error`` is."""
        position, end = 0, len(data)
        self._needed = PREFIX_BYTES
        while end - position >= PREFIX_BYTES:
            flag, length = PREFIX.unpack_from(data, position)
            if length > self._max_bytes:
                raise _too_large(f"a message of {length} bytes", self._max_bytes)
            start = position + PREFIX_BYTES
            if end - start < length:
                self._needed = PREFIX_BYTES + length
                break
            position = start + length
            message = data[start:position]
            messages.append(message if flag == 0 else self._decompressed(flag, message))
        if position < end:
            self._pieces, self.held_bytes = [data[position:]], end - position

    def _decompressed(self, flag: int, message: bytes) -> bytes:
        bits = _WINDOW_BITS.get(self._encoding)
        if flag != 1 or bits is None:
            raise GrpcStatusError(
                "INTERNAL",
                f"a message has the compressed flag {flag}, its grpc-encoding is {self._encoding}",
            )
        decompressor = zlib.decompressobj(bits)
        try:
            # One byte more than allowed tells the two apart without unfolding all of it.
            plain = decompressor.decompress(message, self._max_bytes + 1)
        except zlib.error as error:
            raise GrpcStatusError("INTERNAL", f"a message is not {self._encoding}") from error
        if len(plain) > self._max_bytes:
            raise _too_large(f"a {self._encoding} message", self._max_bytes)
        if not decompressor.eof or decompressor.unused_data:
            raise GrpcStatusError("INTERNAL", f"a message is not one whole {self._encoding}")
        return plain


def _too_large(what: str, limit: int) -> GrpcStatusError:
    return GrpcStatusError("RESOURCE_EXHAUSTED", f"{what} came, at most {limit} bytes are taken")
