"""Header blocks in (RFC 7541) behind a cache, and constant blocks out.

Real clients send the same block with every call once the dynamic table knows their headers. A
block decodes to the same fields as long as the table is the same, so what was made of it is kept
until the table changes. Of blocks that differ in each call (``grpc-timeout``, request ids, trace
context) the same is done with what they begin with, and the rest is read by ``_decode`` against
hpack's table, some times cheaper than by hpack's own loop. Blocks that begin with a change of
the table's size go through hpack itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import Generic, NamedTuple, TypeVar

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable

from hlserve.serving.transports.http2 import huffman
from hlserve.serving.transports.http2.frames import ConnectionFaultError, ErrorCode

Field = tuple[bytes, bytes]
Head = TypeVar("Head")

_STATIC = (*HeaderTable.STATIC_TABLE[:1], *HeaderTable.STATIC_TABLE)  # 1-based, as on the wire
_STATIC_COUNT = len(HeaderTable.STATIC_TABLE)
_LAST_STATIC = 0x80 | _STATIC_COUNT  # the byte that refers to it
_FIELD_OVERHEAD_BYTES = 32  # section 4.1
# What a client can make one connection keep: less than 300 KB.
_MAX_CACHED_BLOCKS = 128
_MAX_CACHED_BLOCK_BYTES = 1024
_MAX_CACHED_BEGINS = 16
_MAX_CACHED_TEXTS = 256
_MAX_CACHED_TEXT_BYTES = 32  # names, and short values
_MAX_INTEGER_BYTES = 5


class HeaderDecoder(Generic[Head]):
    """The decoding side of one connection.

    Args:
        make: what becomes of a request's fields; must depend on nothing else, since its answer is
            used again for an equal block. What it raises goes through and is not kept.
        max_bytes: bound on one block's fields, each counted with 32 bytes more.
        extend: what ``make`` makes of some fields and more, from what it made of the some; None:
            ask ``make``.
    """

    def __init__(
        self,
        make: Callable[[list[Field]], Head],
        max_bytes: int,
        extend: Callable[[Head, list[Field]], Head | None] | None = None,
    ) -> None:
        self._make = make
        self._extend = extend
        self._max_bytes = max_bytes
        self._hpack = Decoder(max_header_list_size=max_bytes)
        self._table = self._hpack.header_table
        self._heads: dict[bytes, Head] = {}
        self._begins: dict[bytes, _Begin[Head]] = {}
        self._begin_bytes = 0
        self._last_block = b""
        self._texts: dict[bytes, bytes] = {}

    def request(self, block: bytes) -> Head:
        """What ``make`` made of the block's fields.

        Raises:
            ConnectionFaultError: the block is malformed or too large; the table is lost with it.
        """
        head = self._heads.get(block)
        if head is not None:
            return head
        begin = self._begins.get(block[: self._begin_bytes]) if self._begin_bytes else None
        if begin is None:
            return self._new(block)
        fields, _ = self._fields(block, begin)
        assert self._extend is not None
        head = self._extend(begin.head, fields)
        return self._make([*begin.fields, *fields]) if head is None else head

    def skip(self, block: bytes) -> None:
        """Keeps the table in step where nobody wants the fields: trailers, refused streams.

        Raises:
            ConnectionFaultError: as for ``request``.
        """
        if block not in self._heads:
            self._fields(block)

    def _new(self, block: bytes) -> Head:
        """Of a block that is like none before; what later ones may share with it is kept."""
        fields, is_repeatable = self._fields(block)
        head = self._make(fields)
        if is_repeatable and len(block) <= _MAX_CACHED_BLOCK_BYTES:
            if len(self._heads) >= _MAX_CACHED_BLOCKS:
                self._heads.clear()
            self._heads[block] = head
            self._learn_begin(block)
        return head

    def _learn_begin(self, block: bytes) -> None:
        """Keeps what this block and the last new one begin with, if that is a request already."""
        last, self._last_block = self._last_block, block
        if self._extend is None:
            return
        pairs = zip(last, block, strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        fields, ends = self._decode_shared(block, shared)
        if not fields:
            return
        try:
            head = self._make(fields)
        except Exception:  # not enough of one
            return
        if len(self._begins) >= _MAX_CACHED_BEGINS:
            self._begins.clear()
        self._begin_bytes = ends
        size = sum(len(name) + len(value) + _FIELD_OVERHEAD_BYTES for name, value in fields)
        self._begins[block[:ends]] = _Begin(fields, size, head, ends)

    def _decode_shared(self, block: bytes, shared: int) -> tuple[list[Field], int]:
        """The whole fields within the first bytes of a block that changes no table."""
        fields, position = [], 0
        while position < shared:
            field, end, _ = self._next_field(block, position)
            if end > shared:
                break
            fields.append(field)
            position = end
        return fields, position

    def _fields(self, block: bytes, begin: _Begin[Head] | None = None) -> tuple[list[Field], bool]:
        """The fields after ``begin``, and whether an equal block would decode to them again."""
        try:
            if block and block[0] & 0xE0 == 0x20:
                self._forget()
                return [(bytes(n), bytes(v)) for n, v in self._hpack.decode(block, raw=True)], False
            if begin is None:
                fields, inserted = self._decode(block, 0, 0)
            else:
                fields, inserted = self._decode(block, begin.end, begin.size)
        except OversizedHeaderListError as error:
            raise ConnectionFaultError(
                ErrorCode.ENHANCE_YOUR_CALM, f"headers of more than {self._max_bytes} bytes"
            ) from error
        except (HPACKError, IndexError, ValueError) as error:
            raise ConnectionFaultError(
                ErrorCode.COMPRESSION_ERROR, "malformed header block"
            ) from error
        if inserted:
            self._forget()
        return fields, not inserted

    def _forget(self) -> None:
        """The table changed: an index means another field now."""
        self._heads.clear()
        self._begins.clear()
        self._begin_bytes = 0
        self._last_block = b""

    def _decode(self, block: bytes, position: int, size: int) -> tuple[list[Field], bool]:
        fields: list[Field] = []
        end, inserted = len(block), False
        dynamic = self._table.dynamic_entries
        while position < end:
            first = block[position]
            if 0x80 < first <= _LAST_STATIC:
                field = _STATIC[first & 0x7F]
                position += 1
            elif _LAST_STATIC < first < 0xFF:
                field = dynamic[first - _LAST_STATIC - 1]
                position += 1
            else:
                field, position, is_new = self._next_field(block, position)
                if is_new:
                    self._table.add(*field)
                    inserted = True
            size += len(field[0]) + len(field[1]) + _FIELD_OVERHEAD_BYTES
            if size > self._max_bytes:
                raise OversizedHeaderListError
            fields.append(field)
        return fields, inserted

    def _next_field(self, block: bytes, position: int) -> tuple[Field, int, bool]:
        """The field that begins here, where it ends, and whether it goes into the table."""
        first = block[position]
        if first & 0x80:  # 6.1 indexed
            index, position = _integer(block, position, 0x7F)
            return self._field(index), position, False
        if first & 0x40:  # 6.2.1 literal with incremental indexing
            name, value, position = self._literal(block, position, 0x3F)
            return (name, value), position, True
        if first & 0x20:  # 6.3 size update, only allowed at the start
            raise ValueError("size update after a field")
        # 6.2.2 and 6.2.3 literal not indexed
        name, value, position = self._literal(block, position, 0x0F)
        return (name, value), position, False

    def _field(self, index: int) -> Field:
        if index <= _STATIC_COUNT:
            if not index:
                raise ValueError("index 0")
            return _STATIC[index]
        return self._table.dynamic_entries[index - _STATIC_COUNT - 1]

    def _literal(self, block: bytes, position: int, mask: int) -> tuple[bytes, bytes, int]:
        index = block[position] & mask
        position += 1
        if index == mask:
            index, position = _integer(block, position - 1, mask)
        if index:
            name = self._field(index)[0]
        else:
            name, position = self._text(block, position)
        value, position = self._text(block, position)
        return name, value, position

    def _text(self, block: bytes, position: int) -> tuple[bytes, int]:
        first = block[position]
        length, start = first & 0x7F, position + 1
        if length == 0x7F:
            length, start = _integer(block, position, 0x7F)
        end = start + length
        text = block[start:end]
        if end > len(block):
            raise ValueError("a text ends after its block")
        if first < 0x80:
            return text, end
        if length > _MAX_CACHED_TEXT_BYTES:
            return huffman.decode(text), end
        plain = self._texts.get(text)
        if plain is None:
            if len(self._texts) >= _MAX_CACHED_TEXTS:
                self._texts.clear()
            plain = self._texts[text] = huffman.decode(text)
        return plain, end


class _Begin(NamedTuple, Generic[Head]):
    """What several blocks begin with: its fields, their size, what was made of them, its end."""

    fields: list[Field]
    size: int
    head: Head
    end: int


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
