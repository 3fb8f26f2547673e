"""The sending side of a stream: an error in the caller's own requests is kept, not lost in gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any, TypeVar

from google.protobuf.message import Message

_Item = TypeVar("_Item")


class Sending:
    """Makes a message of each item as gRPC asks for it; ends the stream where that fails.

    Attributes:
        failure: what making a message raised; None: nothing.
    """

    def __init__(self, make: Callable[[int, Any], Message]) -> None:
        self._make = make
        self.failure: Exception | None = None

    def messages(self, items: Iterable[_Item]) -> Iterator[Message]:
        """One message an item."""
        try:
            for number, item in enumerate(items):
                yield self._make(number, item)
        except Exception as error:  # raised again to the caller when the answers end
            self.failure = error

    async def messages_async(
        self, items: Iterable[_Item] | AsyncIterable[_Item]
    ) -> AsyncIterator[Message]:
        """One message an item, of either kind of iterable."""
        number = 0
        try:
            async for item in _each(items):
                yield self._make(number, item)
                number += 1
        except Exception as error:  # raised again to the caller when the answers end
            self.failure = error

    def check(self) -> None:
        """Raises what making a message raised."""
        if self.failure is not None:
            raise self.failure


async def _each(items: Iterable[_Item] | AsyncIterable[_Item]) -> AsyncIterator[_Item]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
