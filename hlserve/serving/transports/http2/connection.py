"""The server's side of one HTTP/2 connection (RFC 9113), without I/O.

Bytes go in by ``receive``; calls on the listener and bytes (``take_output``) come out. A frame is
never an object: the loop in ``_frames`` reads its nine bytes and goes on. What answers are made of
goes out by ``sending.Sender``, which knows the client's windows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from hlserve.serving.transports.http2 import frames
from hlserve.serving.transports.http2.frames import ConnectionFaultError, ErrorCode
from hlserve.serving.transports.http2.headers import Field, HeaderDecoder
from hlserve.serving.transports.http2.incoming import Incoming
from hlserve.serving.transports.http2.limits import Allowance, Http2Limits
from hlserve.serving.transports.http2.sending import Sender, our_settings
from hlserve.serving.transports.http2.streams import HeaderBlock, Listener, Stream

Head = TypeVar("Head")

_HEADERS_FLAGS = frames.END_HEADERS | frames.PADDED | frames.PRIORITY_FLAG
_REMEMBERED_RESETS = 1024  # streams that we ended: frames already on their way are ignored


class Connection(Generic[Head]):
    """State of one connection.

    Args:
        listener: gets the requests.
        make_head: a request from its header fields; raises ``MalformedRequestError``.
        limits: what the client may cost.
        clock: seconds, monotonic.
        extend_head: see ``HeaderDecoder``.
    """

    def __init__(
        self,
        listener: Listener[Head],
        make_head: Callable[[list[Field]], Head],
        limits: Http2Limits,
        clock: Callable[[], float],
        extend_head: Callable[[Head, list[Field]], Head | None] | None = None,
    ) -> None:
        self._listener = listener
        self._limits = limits
        self._clock = clock
        self.now_s = clock()  # of the bytes at hand: one look at the clock for all their frames
        self._decoder = HeaderDecoder(make_head, limits.max_header_bytes, extend_head)
        self._resets = Allowance(limits.reset_burst, limits.reset_rate_hz)
        self._controls = Allowance(limits.control_burst, limits.control_rate_hz)
        self._incoming = Incoming(self._frames)
        self._has_settings = False
        self._block: HeaderBlock | None = None
        self._receive_window = limits.connection_window_bytes
        self._credit_below = limits.connection_window_bytes // 2
        self._reset_by_us: OrderedDict[int, None] = OrderedDict()
        self._unsent: dict[int, int] = {}  # by stream, when stalls were last looked for
        self._last_stream = 0
        self._refuses_after = frames.STREAM_MASK  # drain: streams above are refused
        self.streams: dict[int, Stream] = {}
        self.sender = Sender(self.streams, self._sent_all, limits)
        self.is_closed = False
        self.fault: ConnectionFaultError | None = None
        self.sender.control(our_settings(limits))

    @property
    def is_waiting_for_rest(self) -> bool:
        """Whether a preface, frame or header block began whose rest did not come."""
        return bool(self._incoming.is_waiting or self._block or not self._has_settings)

    def receive(self, data: bytes) -> None:
        """Takes what came; after a fault everything is ignored, and ``is_closed`` is set."""
        if self.is_closed:
            return
        self.now_s = self._clock()
        try:
            self._incoming.take(data)
        except ConnectionFaultError as fault:
            self.close(fault.code, fault.reason)  # unless the listener did it meanwhile

    def _frames(self, data: bytes, position: int) -> tuple[bytes, int]:
        """Handles every whole frame; gives the rest, and how many bytes its frame has."""
        end = len(data)
        unpack = frames.HEADER.unpack_from
        max_bytes = self._limits.max_frame_bytes
        while end - position >= frames.HEADER_BYTES:
            if self.is_closed:  # by a listener
                return b"", frames.HEADER_BYTES
            word, flags, number = unpack(data, position)
            length = word >> 8
            if length > max_bytes:
                raise ConnectionFaultError(
                    ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes, at most {max_bytes}"
                )
            start = position + frames.HEADER_BYTES
            stop = start + length
            if stop > end:
                return data[position:], stop - position
            position = stop
            kind, number, payload = word & 0xFF, number & frames.STREAM_MASK, data[start:stop]
            if kind > frames.HEADERS or self._block is not None or not self._has_settings:
                self._frame(kind, flags, number, payload)
            elif kind == frames.DATA:
                self._data(flags, number, payload)
            elif flags & _HEADERS_FLAGS == frames.END_HEADERS:
                self._whole_block(number, payload, bool(flags & frames.END_STREAM))
            else:
                self._headers(flags, number, payload)
        return data[position:], frames.HEADER_BYTES

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block is not None and kind != frames.CONTINUATION:
            raise ConnectionFaultError(ErrorCode.PROTOCOL_ERROR, "a frame inside of a header block")
        if not self._has_settings and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ConnectionFaultError(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if kind == frames.DATA:
            self._data(flags, number, payload)
        elif kind == frames.HEADERS:
            self._headers(flags, number, payload)
        elif kind == frames.WINDOW_UPDATE:
            self._window_update(number, payload)
        else:
            self._other_frame(kind, flags, number, payload)

    def _other_frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == frames.RST_STREAM:
            self._rst_stream(number, payload)
        elif kind == frames.CONTINUATION:
            self._continuation(flags, number, payload)
        elif kind == frames.SETTINGS:
            self._settings(flags, number, payload)
        elif kind == frames.PING:
            self._ping(flags, number, payload)
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFaultError(ErrorCode.PROTOCOL_ERROR, "a client cannot push")
        elif kind == frames.GOAWAY:
            frames.expect(number == 0, "GOAWAY on a stream")
            self._control()
        else:
            self._ignored_frame(kind, number, payload)

    # ----- requests

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        if flags & frames.PADDED:
            payload = frames.without_padding(payload)
        if flags & frames.PRIORITY_FLAG:
            if len(payload) < 5:
                raise ConnectionFaultError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without priority")
            frames.expect(
                frames.word(payload[:4]) & frames.STREAM_MASK != number, "depends on itself"
            )
            payload = payload[5:]
        ends = bool(flags & frames.END_STREAM)
        if flags & frames.END_HEADERS:
            self._whole_block(number, payload, ends)
        else:
            self._block = HeaderBlock(number, ends, [payload], len(payload))

    def _continuation(self, flags: int, number: int, payload: bytes) -> None:
        block = self._block
        frames.expect(block is not None and block.number == number, "CONTINUATION without HEADERS")
        assert block is not None
        block.parts.append(payload)
        block.size_bytes += len(payload)
        limits = self._limits
        is_long = len(block.parts) > limits.max_continuations + 1
        if is_long or block.size_bytes > limits.max_header_bytes:
            raise ConnectionFaultError(ErrorCode.ENHANCE_YOUR_CALM, "too large a header block")
        if flags & frames.END_HEADERS:
            self._block = None
            self._whole_block(number, b"".join(block.parts), block.ends)

    def _whole_block(self, number: int, block: bytes, ends: bool) -> None:
        if len(block) > self._limits.max_header_bytes:
            raise ConnectionFaultError(ErrorCode.ENHANCE_YOUR_CALM, "too large a header block")
        if number <= self._last_stream:
            self._decoder.skip(block)
            self._trailers(number, ends)
            return
        frames.expect(number & 1 == 1, "a client opens odd streams")
        self._last_stream = number
        if len(self.streams) >= self._limits.max_streams or number > self._refuses_after:
            self._decoder.skip(block)
            self._refuse(number, ErrorCode.REFUSED_STREAM)
            return
        try:
            head = self._decoder.request(block)
        except frames.MalformedRequestError:
            self._refuse(number, ErrorCode.PROTOCOL_ERROR)
            return
        windows = (self._limits.stream_window_bytes, self.sender.initial_window)
        stream = Stream(number, *windows, self.now_s)
        stream.has_ended = ends
        self.streams[number] = stream
        self._listener.began(stream, head)

    def _refuse(self, number: int, code: ErrorCode) -> None:
        """Costs the client one of its resets: refusing for ever is a flood too."""
        if not self._resets.take(self.now_s):
            raise ConnectionFaultError(ErrorCode.ENHANCE_YOUR_CALM, "too many refused streams")
        self.sender.control(frames.rst_stream(number, code))
        self._remember_reset(number)

    def _trailers(self, number: int, ends: bool) -> None:
        stream = self.streams.get(number)
        if stream is None:
            self._frame_on_closed(number)
            self._control()
        elif stream.has_ended:
            self.reset(stream, ErrorCode.STREAM_CLOSED)
        elif not ends:
            self.reset(stream, ErrorCode.PROTOCOL_ERROR)
        else:
            stream.has_ended = True
            self._listener.received(stream, b"")

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        self._receive_window -= size
        if self._receive_window < self._credit_below:
            self._credit_connection()
        stream = self.streams.get(number)
        if stream is None:
            frames.expect(number != 0 and number <= self._last_stream, "DATA on an idle stream")
            self._frame_on_closed(number)
            if not payload:
                self._control()
            return
        if stream.has_ended:
            self.reset(stream, ErrorCode.STREAM_CLOSED)
            return
        stream.receive_window -= size
        if stream.receive_window < 0:
            self.reset(stream, ErrorCode.FLOW_CONTROL_ERROR)
            return
        if flags & frames.PADDED:
            payload = frames.without_padding(payload)
            self.consumed(stream, size - len(payload))
        if flags & frames.END_STREAM:
            stream.has_ended = True
        elif not payload:
            self._control()
        stream.active_s = self.now_s
        self._listener.received(stream, payload)

    def consumed(self, stream: Stream, size: int) -> None:
        """Gives a stream credit for bytes that were taken; sent from half a window on."""
        stream.uncredited += size
        if stream.uncredited * 2 >= self._limits.stream_window_bytes and not stream.has_ended:
            self.sender.control(frames.window_update(stream.number, stream.uncredited))
            stream.receive_window += stream.uncredited
            stream.uncredited = 0

    def _credit_connection(self) -> None:
        """At once: ``max_buffered_bytes`` bounds memory, and a slow stream holds up no other."""
        if self._receive_window < 0:
            raise ConnectionFaultError(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window")
        taken = self._limits.connection_window_bytes - self._receive_window
        self.sender.control(frames.window_update(0, taken))
        self._receive_window += taken

    # ----- ends

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """Ends one stream for a rule that the client broke."""
        self._forget(stream)
        self.sender.control(frames.rst_stream(stream.number, code))
        self._remember_reset(stream.number)
        self._gone(stream)
        if not self._resets.take(self.now_s):
            raise ConnectionFaultError(ErrorCode.ENHANCE_YOUR_CALM, "too many broken streams")

    def _sent_all(self, stream: Stream) -> None:
        """The answer is out; what the client still sends of its request is not wanted."""
        stream.call = None  # it knows the stream: no cycle is left for the collector
        del self.streams[stream.number]
        if not stream.has_ended:
            self.sender.control(frames.rst_stream(stream.number, ErrorCode.NO_ERROR))
            self._remember_reset(stream.number)

    def _forget(self, stream: Stream) -> None:
        self.streams.pop(stream.number, None)
        self.sender.forget(stream)

    def _gone(self, stream: Stream) -> None:
        self._listener.gone(stream)
        stream.call = None  # it knows the stream: no cycle is left for the collector

    def _remember_reset(self, number: int) -> None:
        self._reset_by_us[number] = None
        if len(self._reset_by_us) > _REMEMBERED_RESETS:
            self._reset_by_us.popitem(last=False)

    def _frame_on_closed(self, number: int) -> None:
        frames.expect(number & 1 == 1, "a frame on a stream that nobody opened")
        if number not in self._reset_by_us:
            raise ConnectionFaultError(ErrorCode.STREAM_CLOSED, f"stream {number} was closed")

    def _rst_stream(self, number: int, payload: bytes) -> None:
        frames.expect_bytes(payload, 4, "RST_STREAM")
        frames.expect(0 < number <= self._last_stream, "RST_STREAM on an idle stream")
        if not self._resets.take(self.now_s):
            raise ConnectionFaultError(ErrorCode.ENHANCE_YOUR_CALM, "too many resets")
        stream = self.streams.get(number)
        if stream is not None:
            self._forget(stream)
            self._gone(stream)

    def reset_stalled(self, now_s: float) -> None:
        """Ends the streams whose request, or answer, has stood still for too long.

        Called every few seconds. An answer moves where less, or more, of it is unsent than at the
        last call: its windows may be those of the whole connection.
        """
        self.now_s = now_s
        oldest_s = now_s - self._limits.stall_timeout_s
        unsent: dict[int, int] = {}
        stalled = []
        for stream in self.streams.values():
            if stream.unsent:
                unsent[stream.number] = stream.unsent_bytes
                if self._unsent.get(stream.number) != stream.unsent_bytes:
                    stream.active_s = now_s
            elif stream.has_ended or not stream.awaits_rest:
                continue
            if stream.active_s < oldest_s:
                stalled.append(stream)
        self._unsent = unsent
        try:
            for stream in stalled:
                self.reset(stream, ErrorCode.CANCEL)
        except ConnectionFaultError as fault:
            self.close(fault.code, fault.reason)

    def go_away(self, *, is_last: bool) -> None:
        """Asks the client to open no more streams; with ``is_last`` later ones are refused.

        In two steps (section 6.8), so that streams already on their way are still answered.
        """
        last = self._last_stream if is_last else frames.STREAM_MASK
        if is_last:
            self._refuses_after = last
        self.sender.control(frames.goaway(last, ErrorCode.NO_ERROR))

    def close(self, code: ErrorCode, reason: str) -> None:
        """Ends the connection, for a broken rule or what only its surroundings can see."""
        if self.is_closed:
            return
        self.is_closed = True
        self.fault = ConnectionFaultError(code, reason)
        self.sender.control(frames.goaway(self._last_stream, code, reason))
        streams = list(self.streams.values())
        self.streams.clear()
        for stream in streams:
            self._gone(stream)

    # ----- control

    def _control(self) -> None:
        if not self._controls.take(self.now_s):
            raise ConnectionFaultError(ErrorCode.ENHANCE_YOUR_CALM, "too many control frames")

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        frames.expect(number == 0, "SETTINGS on a stream")
        self._control()
        if flags & frames.ACK:
            frames.expect_bytes(payload, 0, "SETTINGS ACK")
            return
        self._has_settings = True
        # First, since it opens the client's windows for what the settings let go.
        self.sender.control(frames.SETTINGS_ACK)
        self.sender.settings(frames.parse_settings(payload))

    def _ping(self, flags: int, number: int, payload: bytes) -> None:
        frames.expect(number == 0, "PING on a stream")
        frames.expect_bytes(payload, 8, "PING")
        self._control()
        if not flags & frames.ACK:
            self.sender.control(frames.ping(payload, is_ack=True))

    def _window_update(self, number: int, payload: bytes) -> None:
        frames.expect_bytes(payload, 4, "WINDOW_UPDATE")
        increment = frames.word(payload) & frames.STREAM_MASK
        stream = self.streams.get(number)
        if number == 0:
            frames.expect(increment > 0, "WINDOW_UPDATE of 0")
            self.sender.credit_connection(increment)
        elif stream is None:
            frames.expect(number <= self._last_stream, "WINDOW_UPDATE on an idle stream")
        elif increment == 0:
            self.reset(stream, ErrorCode.PROTOCOL_ERROR)
        elif not self.sender.credit(stream, increment):
            self.reset(stream, ErrorCode.FLOW_CONTROL_ERROR)
        else:
            stream.active_s = self.now_s

    def _ignored_frame(self, kind: int, number: int, payload: bytes) -> None:
        """PRIORITY, which is deprecated, and kinds that we do not know (sections 5.3.2, 5.5)."""
        self._control()
        if kind == frames.PRIORITY:
            frames.expect(number != 0, "PRIORITY without a stream")
            frames.expect_bytes(payload, 5, "PRIORITY")
