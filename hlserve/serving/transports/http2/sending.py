"""What goes out on one connection, within the client's windows (RFC 9113, section 5.2).

A short answer whose windows are open is three frames in one join. Everything else waits on its
stream and goes out piece by piece as windows open and the socket takes it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping

from hlserve.serving.transports.http2 import frames
from hlserve.serving.transports.http2.frames import ConnectionFaultError, ErrorCode
from hlserve.serving.transports.http2.limits import Http2Limits
from hlserve.serving.transports.http2.streams import Stream

# As much is handed to the socket in one go; more waits until that is written.
_MAX_OUTPUT_BYTES = 2**20
# A table that must shrink is said to, though ours was never used (RFC 7541, section 4.2).
_NO_TABLE = b"\x20"
_LONGEST_FRAME_BYTES = 2**16  # a client may allow 16 MiB, but neighbours wait for each frame


class Sender:
    """The sending half; what is said on a stream that ended meanwhile is dropped.

    Args:
        streams: the open ones, by number; owned by the connection.
        on_sent: called with a stream when the last of its answer went out.
        limits: what unread answers may cost.
    """

    def __init__(
        self,
        streams: Mapping[int, Stream],
        on_sent: Callable[[Stream], None],
        limits: Http2Limits,
    ) -> None:
        self._streams = streams
        self._on_sent = on_sent
        self._max_unsent_bytes = limits.max_unsent_bytes
        self._out: list[bytes | memoryview] = []
        self._out_bytes = 0
        self._window = frames.DEFAULT_WINDOW_BYTES
        self._max_frame_bytes = frames.DEFAULT_FRAME_BYTES
        # In turn: what has something to send and could not, but for what its own window holds back.
        # So whatever opens costs no look at a stream that can send nothing.
        self._waiting: OrderedDict[int, Stream] = OrderedDict()
        self._is_paused = False
        self._block_prefix = b""
        self.initial_window = frames.DEFAULT_WINDOW_BYTES
        self.unsent_bytes = 0

    @property
    def has_waiting(self) -> bool:
        """Whether answers wait for the connection's window or the socket."""
        return bool(self._waiting)

    @property
    def has_output(self) -> bool:
        """Whether there are bytes to write."""
        return bool(self._out)

    def take_output(self) -> bytes:
        """The bytes to write now."""
        out = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out, self._out_bytes = [], 0
        return bytes(out)

    def control(self, data: bytes) -> None:
        """Sends frames that no window holds back."""
        self._out.append(data)
        self._out_bytes += len(data)

    def head(self, stream: Stream, block: bytes) -> None:
        """Sends the headers of an answer that comes in pieces."""
        if stream.number in self._streams:
            self._headers(stream, block, ends=False)

    def trailers_only(self, stream: Stream, block: bytes) -> None:
        """Sends an answer that is one header block."""
        if stream.number not in self._streams:
            return
        self._headers(stream, block, ends=True)
        self._on_sent(stream)

    def _headers(self, stream: Stream, block: bytes, *, ends: bool) -> None:
        block = self._block_prefix + block
        self._block_prefix = b""
        self.control(frames.header_frames(stream.number, block, self._max_frame_bytes, ends=ends))

    def reply(self, stream: Stream, head: bytes, data: bytes, trailers: bytes) -> None:
        """Sends a whole answer: headers, body, trailers; both blocks shorter than a frame."""
        if stream.number not in self._streams:
            return
        size = len(data)
        if (
            size > self._max_frame_bytes
            or size > self._window
            or size > stream.send_window
            or self._is_paused
            or self._block_prefix
        ):
            self.head(stream, head)
            self.data(stream, data)
            self.trailers(stream, trailers)
            return
        self._window -= size
        pack, number = frames.HEADER.pack, stream.number
        self.control(
            b"".join(
                (
                    pack(len(head) << 8 | frames.HEADERS, frames.END_HEADERS, number),
                    head,
                    pack(size << 8, 0, number),
                    data,
                    pack(len(trailers) << 8 | frames.HEADERS, 5, number),  # ends headers, stream
                    trailers,
                )
            )
        )
        self._on_sent(stream)

    def data(self, stream: Stream, data: bytes) -> None:
        """Sends a piece of a body, now or when it may go.

        Raises:
            ConnectionFaultError: too much waits on this connection already.
        """
        if stream.number not in self._streams:
            return
        size = len(data)
        if (
            not stream.unsent
            and size <= self._max_frame_bytes
            and size <= self._window
            and size <= stream.send_window
            and self._out_bytes < _MAX_OUTPUT_BYTES
            and not self._is_paused
        ):
            self._window -= size
            stream.send_window -= size
            self.control(frames.HEADER.pack(size << 8, 0, stream.number) + data)
            return
        if self.unsent_bytes > self._max_unsent_bytes:
            raise ConnectionFaultError(
                ErrorCode.ENHANCE_YOUR_CALM, f"{self.unsent_bytes} bytes of answers were not read"
            )
        if stream.unsent is None:
            stream.unsent = deque()
        stream.unsent.append(data)
        stream.unsent_bytes += len(data)
        self.unsent_bytes += len(data)
        self._send(stream)

    def trailers(self, stream: Stream, block: bytes) -> None:
        """Ends an answer once its body is out."""
        if stream.number not in self._streams:
            return
        stream.trailers = block
        self._send(stream)

    def pause(self) -> None:
        """The socket is full: only control frames go."""
        self._is_paused = True

    def resume(self) -> None:
        """The socket takes bytes again; each waiting stream gets its turn."""
        self._is_paused = False
        self.send_waiting()

    def send_waiting(self) -> None:
        """Sends what may go now."""
        while self._waiting and self._window > 0:
            if self._is_paused or self._out_bytes >= _MAX_OUTPUT_BYTES:
                return
            self._send(next(iter(self._waiting.values())))

    def forget(self, stream: Stream) -> None:
        """Drops what a stream still had to send."""
        self.unsent_bytes -= stream.unsent_bytes
        stream.unsent_bytes = 0
        stream.unsent = None
        self._waiting.pop(stream.number, None)

    def credit_connection(self, increment: int) -> None:
        """More may go on all streams together.

        Raises:
            ConnectionFaultError: the window passes 2^31 - 1.
        """
        self._window += increment
        if self._window > frames.MAX_WINDOW_BYTES:
            raise ConnectionFaultError(ErrorCode.FLOW_CONTROL_ERROR, "the window overflows")
        self.send_waiting()

    def credit(self, stream: Stream, increment: int) -> bool:
        """More may go on one stream; False: its window passes 2^31 - 1."""
        stream.send_window += increment
        if stream.send_window > frames.MAX_WINDOW_BYTES:
            return False
        if stream.unsent:
            self._send(stream)
        return True

    def settings(self, values: Iterable[tuple[int, int]]) -> None:
        """Takes the client's settings (section 6.5.2); of one that is there twice the last value.

        Raises:
            ConnectionFaultError: a value is outside its range.
        """
        for identifier, value in dict(values).items():
            if identifier == frames.ENABLE_PUSH and value > 1:
                raise ConnectionFaultError(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH is {value}")
            if identifier == frames.MAX_FRAME_SIZE:
                if not frames.DEFAULT_FRAME_BYTES <= value <= frames.MAX_FRAME_BYTES:
                    raise ConnectionFaultError(
                        ErrorCode.PROTOCOL_ERROR, f"MAX_FRAME_SIZE is {value}"
                    )
                self._max_frame_bytes = min(value, _LONGEST_FRAME_BYTES)
            elif identifier == frames.INITIAL_WINDOW_SIZE:
                self._change_initial_window(value)
            elif identifier == frames.HEADER_TABLE_SIZE and value < frames.DEFAULT_TABLE_BYTES:
                self._block_prefix = _NO_TABLE

    def _change_initial_window(self, value: int) -> None:
        if value > frames.MAX_WINDOW_BYTES:
            raise ConnectionFaultError(
                ErrorCode.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE is {value}"
            )
        change = value - self.initial_window
        self.initial_window = value
        for stream in self._streams.values():
            stream.send_window += change
            if stream.send_window > frames.MAX_WINDOW_BYTES:
                raise ConnectionFaultError(ErrorCode.FLOW_CONTROL_ERROR, "the window overflows")
            if stream.unsent:
                self._waiting[stream.number] = stream
        self.send_waiting()

    def _send(self, stream: Stream) -> None:
        unsent = stream.unsent
        while unsent and not self._is_paused and self._out_bytes < _MAX_OUTPUT_BYTES:
            piece = unsent[0]
            size = min(len(piece), self._window, stream.send_window, self._max_frame_bytes)
            if size <= 0 < len(piece):
                break
            unsent.popleft()
            if size < len(piece):
                view = memoryview(piece)
                unsent.appendleft(view[size:])
                piece = view[:size]
            self._window -= size
            stream.send_window -= size
            stream.unsent_bytes -= size
            self.unsent_bytes -= size
            self._out.append(frames.HEADER.pack(size << 8, 0, stream.number))
            self._out.append(piece)
            self._out_bytes += frames.HEADER_BYTES + size
        self._waiting.pop(stream.number, None)
        if unsent:
            if stream.send_window > 0:
                self._waiting[stream.number] = stream  # to the end: the others have their turn
        elif stream.trailers is not None:
            self.trailers_only(stream, stream.trailers)
        elif stream.on_drained is not None:
            stream.on_drained()


def our_settings(limits: Http2Limits) -> bytes:
    """What the server says first."""
    values = {
        frames.MAX_CONCURRENT_STREAMS: limits.max_streams,
        frames.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
        frames.MAX_FRAME_SIZE: limits.max_frame_bytes,
        frames.MAX_HEADER_LIST_SIZE: min(limits.max_header_bytes, limits.max_metadata_bytes),
    }
    more = limits.connection_window_bytes - frames.DEFAULT_WINDOW_BYTES
    return frames.settings(values) + (frames.window_update(0, more) if more > 0 else b"")
