"""Bytes as they come, put together to whole frames."""

from __future__ import annotations

from collections.abc import Callable

from hlserve.serving.transports.http2 import frames
from hlserve.serving.transports.http2.frames import ConnectionFaultError, ErrorCode

# Handles the whole frames from a position on; gives what is left, and how long that must become.
ReadFrames = Callable[[bytes, int], tuple[bytes, int]]


class Incoming:
    """What came and is no whole frame yet; a frame's end costs no copy of the frames after it.

    Args:
        read_frames: handles whole frames; what it raises goes through.
    """

    def __init__(self, read_frames: ReadFrames) -> None:
        self._read_frames = read_frames
        self._pieces: list[bytes] = []
        self._size = 0
        self._needed = len(frames.PREFACE)
        self._has_preface = False

    @property
    def is_waiting(self) -> bool:
        """Whether a preface or frame began whose rest did not come."""
        return bool(self._pieces)

    def take(self, data: bytes) -> None:
        """Handles every frame that is whole now.

        Raises:
            ConnectionFaultError: it does not begin with the preface, or a frame broke a rule.
        """
        start = 0
        while self._pieces or not self._has_preface:
            stop = start + self._needed - self._size
            piece = data[start:stop]
            if len(piece) < self._needed - self._size:
                self._wait_with(piece)
                return
            whole = b"".join((*self._pieces, piece))
            self._pieces, self._size = [], 0
            start = stop
            if self._has_preface:
                self._read(whole, 0)
            else:
                _check_preface(whole)
                self._has_preface, self._needed = True, frames.HEADER_BYTES
        if start < len(data):
            self._read(data, start)

    def _read(self, data: bytes, start: int) -> None:
        rest, self._needed = self._read_frames(data, start)
        if rest:
            self._pieces, self._size = [rest], len(rest)

    def _wait_with(self, piece: bytes) -> None:
        """Keeps a piece: a byte at a time must not cost a copy each."""
        if piece:
            self._pieces.append(piece)
            self._size += len(piece)
        if not self._has_preface:
            _check_preface(b"".join(self._pieces))


def _check_preface(data: bytes) -> None:
    """The first bytes, as far as they are there."""
    if data != frames.PREFACE[: len(data)]:
        raise ConnectionFaultError(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 preface")
