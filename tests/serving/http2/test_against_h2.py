"""The h2 library as the client: any order of opening, sending, cancelling and crediting."""

from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hlserve.serving.transports.http2.connection import Connection
from hlserve.serving.transports.http2.grpc_request import RequestHead, RequestReader
from hlserve.serving.transports.http2.grpc_status import OK_TRAILERS, RESPONSE_HEAD
from hlserve.serving.transports.http2.limits import Http2Limits
from hlserve.serving.transports.http2.streams import Stream
from tests.serving.http2.peer import FIELDS

LIMITS = Http2Limits(
    max_streams=4, stream_window_bytes=70_000, connection_window_bytes=200_000, control_burst=10**6
)


class Echo:
    """Answers each request with its own body, at its end."""

    def __init__(self) -> None:
        self.connection: Connection[RequestHead]
        self.bodies: dict[int, bytes] = {}
        self.gone_streams: list[int] = []

    def began(self, stream: Stream, head: RequestHead) -> None:
        self.bodies[stream.number] = b""
        if stream.has_ended:
            self.received(stream, b"")

    def received(self, stream: Stream, data: bytes) -> None:
        self.bodies[stream.number] += data
        self.connection.consumed(stream, len(data))
        if stream.has_ended:
            body = self.bodies[stream.number]
            self.connection.sender.reply(stream, RESPONSE_HEAD, body, OK_TRAILERS)

    def gone(self, stream: Stream) -> None:
        self.gone_streams.append(stream.number)


class Exchange(RuleBasedStateMachine):
    """h2 raises where we break a rule; the bodies say whether the flow control works."""

    def __init__(self) -> None:
        super().__init__()
        self.echo = Echo()
        self.server: Connection[RequestHead] = Connection(
            self.echo, RequestReader(2**14), LIMITS, lambda: 0.0
        )
        self.echo.connection = self.server
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.client = h2.connection.H2Connection(config)
        self.client.initiate_connection()
        self.open: dict[int, bytes] = {}  # what was sent so far
        self.ended: dict[int, bytes] = {}
        self.answers: dict[int, bytes] = {}
        self.done: set[int] = set()
        self.uncredited: list[tuple[int, int]] = []
        self.exchange()

    def exchange(self, piece: int = 10**9) -> None:
        """Until nobody has anything to say."""
        while True:
            sent = self.client.data_to_send()
            for start in range(0, len(sent), piece):
                self.server.receive(sent[start : start + piece])
            while self.server.sender.has_output:
                for event in self.client.receive_data(self.server.sender.take_output()):
                    self.happened(event)
                self.server.sender.send_waiting()
            if not sent:
                return

    def happened(self, event: Any) -> None:
        if isinstance(event, h2.events.DataReceived):
            self.answers[event.stream_id] = self.answers.get(event.stream_id, b"") + event.data
            self.uncredited.append((event.flow_controlled_length, event.stream_id))
        elif isinstance(event, h2.events.StreamEnded):
            self.done.add(event.stream_id)
        else:
            assert not isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated)

    @precondition(lambda self: len(self.server.streams) < LIMITS.max_streams)
    @rule(varying=st.text("abc", max_size=3), ends=st.booleans())
    def begin(self, varying: str, ends: bool) -> None:
        number = self.client.get_next_available_stream_id()
        self.client.send_headers(number, [*FIELDS, ("x-id", varying)], end_stream=ends)
        (self.ended if ends else self.open)[number] = b""
        self.exchange()

    @precondition(lambda self: self.open)
    @rule(data=st.data(), size=st.integers(0, 30_000), ends=st.booleans(), pad=st.booleans())
    def send(self, data: st.DataObject, size: int, ends: bool, pad: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.open)))
        size = min(size, self.client.local_flow_control_window(number) - 20, 16_000)
        body = bytes([number % 251]) * max(size, 0)
        self.client.send_data(number, body, end_stream=ends, pad_length=9 if pad else None)
        sent = self.open.pop(number) + body
        (self.ended if ends else self.open)[number] = sent
        self.exchange(data.draw(st.sampled_from([1, 100, 9_999, 10**9])))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.open)))
        del self.open[number]
        self.client.reset_stream(number, 8)
        self.exchange()
        assert number in self.echo.gone_streams

    @rule(size=st.sampled_from([0, 1, 1000, 65_535, 10**6]))
    def change_window(self, size: int) -> None:
        self.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: size})
        self.exchange()

    @rule()
    def ping(self) -> None:
        self.client.ping(b"12345678")
        self.exchange()

    @rule()
    def credit(self) -> None:
        for size, number in self.uncredited:
            if size:
                self.client.acknowledge_received_data(size, number)
        self.uncredited = []
        self.exchange()

    @invariant()
    def answers_are_what_was_sent(self) -> None:
        assert not self.server.is_closed
        for number, body in self.ended.items():
            assert body.startswith(self.answers.get(number, b""))
            if number in self.done:
                assert self.answers.get(number, b"") == body

    def teardown(self) -> None:
        """With every window open, everything that was asked is answered."""
        self.change_window(10**6)
        for _ in range(20):
            self.credit()
        assert set(self.ended) == self.done
        self.answers_are_what_was_sent()


TestExchange = Exchange.TestCase
TestExchange.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
