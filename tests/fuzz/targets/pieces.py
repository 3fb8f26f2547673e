"""One input as several."""

from collections.abc import Iterator


def cut(data: bytes, step: int) -> Iterator[bytes]:
    """Pieces of ``step`` bytes; 0: of 1, 2, 3 ... bytes."""
    place, size = 0, step or 1
    while place < len(data):
        yield data[place : place + size]
        place += size
        size += not step


def fields(data: bytes, count: int) -> list[bytes]:
    """So many fields, each after two bytes that say how long it is; the last takes the rest."""
    found = []
    for _ in range(count - 1):
        size = int.from_bytes(data[:2], "big")
        found.append(data[2 : 2 + size])
        data = data[2 + size :]
    return [*found, data]
