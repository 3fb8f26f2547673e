"""gRPC's messages in a body: in pieces as whole, and as a plain reading of the specification."""

import zlib

from hlserve.serving.transports.http2.grpc_framing import ENCODINGS, PREFIX, MessageReader
from tests.fuzz.targets.pieces import cut

MAX_BYTES = 1000
Outcome = tuple[list[bytes], str | None]


def grpc_messages(data: bytes) -> None:
    """The first byte says the encoding and how the rest is cut."""
    if not data:
        return
    encoding, step, data = ENCODINGS[data[0] % 3], data[0] // 3, data[1:]
    expected, status = plain_reading(encoding, data)
    for pieces in ([data], list(cut(data, step)), list(cut(data, 1))):
        assert read(encoding, pieces) == (expected, status)


def read(encoding: str, pieces: list[bytes]) -> Outcome:
    reader = MessageReader(encoding, MAX_BYTES)
    messages: list[bytes] = []
    for piece in pieces:
        messages += reader.feed(piece)
        assert reader.held_bytes < PREFIX.size + MAX_BYTES
    return messages, None if reader.error is None else reader.error.status


def plain_reading(encoding: str, data: bytes) -> Outcome:
    """One message after the other; the status that ends it."""
    messages: list[bytes] = []
    while len(data) >= PREFIX.size:
        flag, length = PREFIX.unpack_from(data)
        if length > MAX_BYTES:
            return messages, "RESOURCE_EXHAUSTED"
        message = data[PREFIX.size : PREFIX.size + length]
        if len(message) < length:
            break
        if flag:
            plain = _unpacked(encoding, message) if flag == 1 else None
            if plain is None:
                return messages, "INTERNAL"
            if len(plain) > MAX_BYTES:
                return messages, "RESOURCE_EXHAUSTED"
            message = plain
        messages.append(message)
        data = data[PREFIX.size + length :]
    return messages, None


def _unpacked(encoding: str, message: bytes) -> bytes | None:
    """All of it: what a thousand bytes unfold to is a megabyte at most."""
    if encoding == "identity":
        return None
    unpacking = zlib.decompressobj(31 if encoding == "gzip" else 15)
    plain = b""
    try:
        for place in range(len(message)):
            plain += unpacking.decompress(message[place : place + 1])
            if len(plain) > MAX_BYTES:
                return plain
    except zlib.error:
        return None
    return plain if unpacking.eof and not unpacking.unused_data else None
