"""HPACK's Huffman code (RFC 7541, section 5.2), a byte at a time.

hpack's own decoder takes half a byte at a time. Here two of its steps are one, made when it is
first needed: there are at most 65,536, which hold some 10 MB.
"""

from __future__ import annotations

from hpack.huffman_table import (
    HUFFMAN_COMPLETE,
    HUFFMAN_EMIT_SYMBOL,
    HUFFMAN_FAIL,
    HUFFMAN_TABLE,
)

# (state << 8 | byte) -> (next state << 8, what is emitted, whether the text may end here)
_STEPS: dict[int, tuple[int, bytes, bool]] = {}


def decode(data: bytes) -> bytes:
    """The text.

    Raises:
        ValueError: it is not coded so, or ends within a symbol.
    """
    state, may_end = 0, True
    text = bytearray()
    steps = _STEPS
    try:
        for byte in data:
            state, emitted, may_end = steps[state | byte]
            text += emitted
    except KeyError:
        _add_steps(data)
        return decode(data)
    if not may_end:
        raise ValueError("a Huffman text ends within a symbol")
    return bytes(text)


def _add_steps(data: bytes) -> None:
    """Those that this text takes."""
    state = 0
    for byte in data:
        if state | byte not in _STEPS:
            _STEPS[state | byte] = _step(state | byte)
        state = _STEPS[state | byte][0]


def _step(key: int) -> tuple[int, bytes, bool]:
    state, emitted, flags = key >> 8, bytearray(), 0
    for nibble in (key >> 4 & 0xF, key & 0xF):
        state, flags, symbol = HUFFMAN_TABLE[state * 16 + nibble]
        if flags & HUFFMAN_FAIL:
            raise ValueError("not a Huffman text")
        if flags & HUFFMAN_EMIT_SYMBOL:
            emitted.append(symbol)
    return state << 8, bytes(emitted), bool(flags & HUFFMAN_COMPLETE)
