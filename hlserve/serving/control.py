"""The channel between a supervisor and its processes: messages, each after its length.

Only processes that the supervisor started hold the other end; nothing here is on the network.
"""

from __future__ import annotations

import asyncio
import struct

import msgspec

# What a supervisor runs for the statistics of a process: no call that a client could make.
SNAPSHOT_PATH = "/hlserve/Snapshot"

_LENGTH = struct.Struct("<Q")


class Loaded(msgspec.Struct, tag=True):
    """Worker: my models are loaded, tell me the settings in effect."""


class Settings(msgspec.Struct, tag=True):
    """Supervisor: calls that took effect since the start, in order; run them, then listen."""

    calls: list[tuple[str, bytes]]


class Listening(msgspec.Struct, tag=True):
    """Worker: I take traffic."""


class Ask(msgspec.Struct, tag=True):
    """Worker: have this call run in every process; ``number`` comes back with the outcomes."""

    number: int
    path: str
    request: bytes


class Run(msgspec.Struct, tag=True):
    """Supervisor: run this call."""

    number: int
    path: str
    request: bytes


class Answered(msgspec.Struct, tag=True):
    """Worker: it ran; ``number`` is that of the Run."""

    number: int
    response: bytes


class Failed(msgspec.Struct, tag=True):
    """Worker: it ended with an error of ``hlserve.errors``, by the name of its class."""

    number: int
    error: str
    details: str


class Outcomes(msgspec.Struct, tag=True):
    """Supervisor: what came of an Ask, one outcome a process."""

    number: int
    outcomes: list[Answered | Failed]


Outcome = Answered | Failed
Message = Loaded | Settings | Listening | Ask | Run | Answered | Failed | Outcomes


class Control:
    """One end of a channel."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = msgspec.msgpack.Decoder(Message)

    def send(self, message: Message) -> None:
        """Queues a message; one to an end that is gone is lost, as its reader will notice."""
        if self._writer.is_closing():
            return
        data = msgspec.msgpack.encode(message)
        self._writer.write(_LENGTH.pack(len(data)))
        self._writer.write(data)

    async def receive(self) -> Message | None:
        """The next message; None: the other end is gone."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            data = await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        message: Message = self._decoder.decode(data)
        return message

    def close(self) -> None:
        """Ends the channel; the other end receives None."""
        self._writer.close()
