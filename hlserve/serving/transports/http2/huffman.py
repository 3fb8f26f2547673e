"""HPACK's Huffman code (RFC 7541, section 5.2), a byte at a time.

hpack's own decoder takes half a byte at a time. Here two of its steps are one; a state's steps are
made when it is first reached. All together hold some 10 MB.
"""

from __future__ import annotations

from hpack.huffman_table import (
    HUFFMAN_COMPLETE,
    HUFFMAN_EMIT_SYMBOL,
    HUFFMAN_FAIL,
    HUFFMAN_TABLE,
)

# Next state, what is emitted, whether the text may end here.
_Step = tuple[int, bytes, bool]

_STATES = len(HUFFMAN_TABLE) // 16
_LOST = _STATES  # what follows is not read any more
# By state, then by byte; None: never reached yet.
_STEPS: list[list[_Step] | None] = [*[None] * _STATES, [(_LOST, b"", False)] * 256]


def decode(data: bytes) -> bytes:
    """The text.

    Raises:
        ValueError: it is not coded so, or ends within a symbol.
    """
    state, may_end = 0, True
    text = bytearray()
    for byte in data:
        steps = _STEPS[state]
        if steps is None:
            steps = _STEPS[state] = [_step(state, byte) for byte in range(256)]
        state, emitted, may_end = steps[byte]
        text += emitted
    if not may_end:
        raise ValueError("not a Huffman text, or one that ends within a symbol")
    return bytes(text)


def _step(state: int, byte: int) -> _Step:
    emitted, flags = bytearray(), 0
    for nibble in (byte >> 4, byte & 0xF):
        state, flags, symbol = HUFFMAN_TABLE[state * 16 + nibble]
        if flags & HUFFMAN_FAIL:
            return _LOST, b"", False
        if flags & HUFFMAN_EMIT_SYMBOL:
            emitted.append(symbol)
    return state, bytes(emitted), bool(flags & HUFFMAN_COMPLETE)
