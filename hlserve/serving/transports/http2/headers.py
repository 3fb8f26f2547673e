"""Header blocks in (RFC 7541) behind a cache, and constant blocks out.

Real clients send the same block with every call once the dynamic table knows their headers. A
block decodes to the same fields as long as the table is the same, so what was made of it is kept
until the table changes. Blocks that differ in each call (``grpc-timeout``, request ids, trace
context) take ``_decode``, which reads fields against hpack's table and is some times cheaper than
hpack's own loop. Blocks that begin with a change of the table's size go through hpack itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from hlserve.serving.transports.http2.frames import ConnectionFaultError, ErrorCode

Field = tuple[bytes, bytes]
Head = TypeVar("Head")

_STATIC = (None, *HeaderTable.STATIC_TABLE)  # 1-based, as on the wire
_STATIC_COUNT = len(HeaderTable.STATIC_TABLE)
_FIELD_OVERHEAD_BYTES = 32  # section 4.1
# What a client can make one connection keep: less than 300 KB.
_MAX_CACHED_BLOCKS = 128
_MAX_CACHED_BLOCK_BYTES = 1024
_MAX_CACHED_TEXTS = 256
_MAX_CACHED_TEXT_BYTES = 128
_MAX_INTEGER_BYTES = 5


class HeaderDecoder(Generic[Head]):
    """The decoding side of one connection.

    Args:
        make: what becomes of a request's fields; must depend on nothing else, since its answer is
            used again for an equal block. What it raises goes through and is not kept.
        max_bytes: bound on one block's fields, each counted with 32 bytes more.
    """

    def __init__(self, make: Callable[[list[Field]], Head], max_bytes: int) -> None:
        self._make = make
        self._max_bytes = max_bytes
        self._hpack = Decoder(max_header_list_size=max_bytes)
        self._table = self._hpack.header_table
        self._heads: dict[bytes, Head] = {}
        self._texts: dict[bytes, bytes] = {}

    def request(self, block: bytes) -> Head:
        """What ``make`` made of the block's fields.

        Raises:
            ConnectionFaultError: the block is malformed or too large; the table is lost with it.
        """
        head = self._heads.get(block)
        if head is not None:
            return head
        fields, is_repeatable = self._fields(block)
        head = self._make(fields)
        if is_repeatable and len(block) <= _MAX_CACHED_BLOCK_BYTES:
            if len(self._heads) >= _MAX_CACHED_BLOCKS:
                self._heads.clear()
            self._heads[block] = head
        return head

    def skip(self, block: bytes) -> None:
        """Keeps the table in step where nobody wants the fields: trailers, refused streams.

        Raises:
            ConnectionFaultError: as for ``request``.
        """
        if block not in self._heads:
            self._fields(block)

    def _fields(self, block: bytes) -> tuple[list[Field], bool]:
        """The fields, and whether an equal block would decode to them again."""
        try:
            if block and block[0] & 0xE0 == 0x20:
                self._heads.clear()
                return [(bytes(n), bytes(v)) for n, v in self._hpack.decode(block, raw=True)], False
            fields, inserted = self._decode(block)
        except (_TooLargeError, OversizedHeaderListError) as error:
            raise ConnectionFaultError(
                ErrorCode.ENHANCE_YOUR_CALM, f"headers of more than {self._max_bytes} bytes"
            ) from error
        except (HPACKError, IndexError, ValueError) as error:
            raise ConnectionFaultError(
                ErrorCode.COMPRESSION_ERROR, "malformed header block"
            ) from error
        if inserted:
            self._heads.clear()
        return fields, not inserted

    def _decode(self, block: bytes) -> tuple[list[Field], bool]:
        fields: list[Field] = []
        table = self._table
        position, end, size, inserted = 0, len(block), 0, False
        while position < end:
            first = block[position]
            if first & 0x80:  # 6.1 indexed
                index = first & 0x7F
                position += 1
                if index == 0x7F:
                    index, position = _integer(block, position - 1, 0x7F)
                field = self._field(index)
            elif first & 0x40:  # 6.2.1 literal with incremental indexing
                name, value, position = self._literal(block, position, 0x3F)
                table.add(name, value)
                field, inserted = (name, value), True
            elif first & 0x20:  # 6.3 size update, only allowed at the start
                raise ValueError("size update after a field")
            else:  # 6.2.2 and 6.2.3 literal not indexed
                name, value, position = self._literal(block, position, 0x0F)
                field = (name, value)
            size += len(field[0]) + len(field[1]) + _FIELD_OVERHEAD_BYTES
            if size > self._max_bytes:
                raise _TooLargeError
            fields.append(field)
        return fields, inserted

    def _field(self, index: int) -> Field:
        if index <= _STATIC_COUNT:
            field = _STATIC[index]
            if field is None:
                raise ValueError("index 0")
            return field
        return self._table.dynamic_entries[index - _STATIC_COUNT - 1]

    def _literal(self, block: bytes, position: int, mask: int) -> tuple[bytes, bytes, int]:
        index, position = _integer(block, position, mask)
        if index:
            name = self._field(index)[0]
        else:
            name, position = self._text(block, position)
        value, position = self._text(block, position)
        return name, value, position

    def _text(self, block: bytes, position: int) -> tuple[bytes, int]:
        first = block[position]
        is_huffman = first & 0x80
        length, start = first & 0x7F, position + 1
        if length == 0x7F:
            length, start = _integer(block, position, 0x7F)
        end = start + length
        text = block[start:end]
        if len(text) != length:
            raise ValueError("a text ends after its block")
        if not is_huffman:
            return text, end
        plain = self._texts.get(text)
        if plain is None:
            plain = bytes(decode_huffman(text))
            if length <= _MAX_CACHED_TEXT_BYTES:
                if len(self._texts) >= _MAX_CACHED_TEXTS:
                    self._texts.clear()
                self._texts[text] = plain
        return plain, end


class _TooLargeError(Exception):
    """More fields than the bound."""


def _integer(block: bytes, position: int, mask: int) -> tuple[int, int]:
    """An integer with a prefix (section 5.1), and where it ends."""
    value = block[position] & mask
    position += 1
    if value < mask:
        return value, position
    for shift in range(0, 7 * _MAX_INTEGER_BYTES, 7):
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("an integer of more than 5 bytes")


def encode(fields: Iterable[Field]) -> bytes:
    """A block that leaves every table alone: static entries where whole, else plain literals.

    Names must be in lower case. The same fields always give the same bytes.
    """
    return b"".join(_encode_field(name, value) for name, value in fields)


_WHOLE = {field: index for index, field in enumerate(HeaderTable.STATIC_TABLE, 1) if field[1]}
_NAMES = {
    name: index for index, (name, _) in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1)))
}


def _encode_field(name: bytes, value: bytes) -> bytes:
    whole = _WHOLE.get((name, value))
    if whole is not None:
        return bytes([0x80 | whole])
    index = _NAMES.get(name)
    if index is not None:
        return _encode_integer(index, 0x0F) + _encode_text(value)
    return b"\0" + _encode_text(name) + _encode_text(value)


def _encode_text(text: bytes) -> bytes:
    return _encode_integer(len(text), 0x7F) + text


def _encode_integer(value: int, mask: int) -> bytes:
    if value < mask:
        return bytes([value])
    out = [mask]
    value -= mask
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
