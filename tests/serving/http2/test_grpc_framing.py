"""gRPC's messages, timeouts and statuses on the wire."""

import gzip
import tracemalloc
import zlib
from itertools import pairwise
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlserve.serving.transports.http2 import grpc_status
from hlserve.serving.transports.http2.grpc_framing import PREFIX, MessageReader, framed
from hlserve.serving.transports.http2.grpc_request import RequestReader, parse_timeout_s
from hlserve.serving.transports.http2.grpc_status import percent_encoded
from tests.serving.http2.peer import FIELDS

LIMIT = 10_000


def compressed(data: bytes) -> bytes:
    return PREFIX.pack(1, len(data)) + data


@given(st.lists(st.binary(max_size=50)), st.lists(st.integers(0, 300), max_size=10))
def test_messages_are_the_same_whatever_pieces_they_come_in(
    messages: list[bytes], cuts: list[int]
) -> None:
    sent = b"".join(framed(message) for message in messages)
    places = [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]
    reader = MessageReader("identity", LIMIT)
    got = [m for start, end in pairwise(places) for m in reader.feed(sent[start:end])]
    assert got == messages
    assert reader.held_bytes == 0


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_compressed_messages_and_plain_ones_may_alternate(encoding: str, pack: object) -> None:
    reader = MessageReader(encoding, LIMIT)
    sent = compressed(pack(b"a" * 9000)) + framed(b"plain") + compressed(pack(b""))  # type: ignore[operator]
    assert reader.feed(sent) == [b"a" * 9000, b"plain", b""]


REFUSED: dict[str, tuple[str, bytes, str]] = {
    "too long": ("identity", PREFIX.pack(0, LIMIT + 1), "RESOURCE_EXHAUSTED"),
    "4 GiB": ("identity", PREFIX.pack(0, 2**32 - 1), "RESOURCE_EXHAUSTED"),
    "unfolds too far": ("gzip", compressed(gzip.compress(b"0" * 20_000)), "RESOURCE_EXHAUSTED"),
    "one byte too far": ("gzip", compressed(gzip.compress(b"0" * 10_001)), "RESOURCE_EXHAUSTED"),
    "no gzip": ("gzip", compressed(b"garbage"), "INTERNAL"),
    "gzip cut off": ("gzip", compressed(gzip.compress(b"abc")[:-9]), "INTERNAL"),
    "bytes after the gzip": ("gzip", compressed(gzip.compress(b"abc") + b"d"), "INTERNAL"),
    "gzip twice": ("gzip", compressed(gzip.compress(b"abc") * 2), "INTERNAL"),
    "flag without encoding": ("identity", compressed(b"abc"), "INTERNAL"),
    "flag of 2": ("gzip", PREFIX.pack(2, 0), "INTERNAL"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_is_refused(name: str) -> None:
    encoding, sent, status = REFUSED[name]
    for before in ([], [b"", b"one before"]):
        reader = MessageReader(encoding, LIMIT)
        assert reader.feed(b"".join(map(framed, before)) + sent) == before
        assert reader.error is not None
        assert reader.error.status == status
        assert reader.feed(framed(b"one after")) == []
        assert reader.held_bytes == 0


def test_a_message_in_single_bytes_holds_little_more_than_its_bytes() -> None:
    sent = framed(bytes(LIMIT))
    reader = MessageReader("identity", LIMIT)
    tracemalloc.start()
    for start in range(len(sent) - 1):
        assert reader.feed(sent[start : start + 1]) == []
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held_bytes < 2 * LIMIT
    assert reader.feed(sent[-1:]) == [bytes(LIMIT)]


def test_a_bomb_is_not_unfolded() -> None:
    bomb = compressed(gzip.compress(b"\0" * 100_000_000, compresslevel=1))
    reader = MessageReader("gzip", 2**20)
    tracemalloc.start()
    assert reader.feed(bomb) == []
    assert reader.error is not None
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 5 * 2**20


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1S", 1), ("99999999n", 0.099999999), ("0m", 0), ("2H", 7200), ("3M", 180), ("7u", 7e-6)],
)
def test_timeouts(text: str, seconds: float) -> None:
    assert parse_timeout_s(text) == pytest.approx(seconds, rel=1e-12)  # a product of two floats


@pytest.mark.parametrize(
    "text", ["", "S", "1", "1s", "-1S", "1.5S", "123456789S", "\u0661S", " 1S"]
)
def test_no_timeouts(text: str) -> None:
    with pytest.raises(ValueError, match="grpc-timeout is"):
        parse_timeout_s(text)


@given(st.text())
def test_details_of_any_text_travel(text: str) -> None:
    encoded = percent_encoded(text)
    assert all(0x20 <= byte < 0x7F for byte in encoded)
    assert unquote(encoded.decode()) == text


def head(**changes: str) -> object:
    fields = {**dict(FIELDS), **{k.replace("_", "-"): v for k, v in changes.items()}}
    return RequestReader(2**14)([(k.encode(), v.encode()) for k, v in fields.items()])


def test_metadata_is_the_clients_own() -> None:
    got = RequestReader(2**14)(
        [
            *((k.encode(), v.encode()) for k, v in FIELDS),
            (b"user-agent", b"me"),
            (b"grpc-timeout", b"5S"),
            (b"grpc-encoding", b"gzip"),
            (b"grpc-accept-encoding", b"gzip"),
            (b"x-key", b"one"),
            (b"x-key", b"two"),
            (b"trace-bin", b"AAA="),
        ]
    )
    assert dict(got.metadata) == {"user-agent": "me", "x-key": "one,two"}
    assert (got.path, got.timeout_s, got.encoding) == (dict(FIELDS)[":path"], 5.0, "gzip")


@pytest.mark.parametrize(
    ("change", "block"),
    [
        ({":method": "GET"}, grpc_status.http_error(405, "gRPC calls are POST")),
        (
            {"content_type": "text/html"},
            grpc_status.http_error(415, "content-type is 'text/html', expected application/grpc"),
        ),
        (
            {"grpc_encoding": "snappy"},
            grpc_status.trailers_only(
                "UNIMPLEMENTED",
                "grpc-encoding is 'snappy', expected one of ('identity', 'gzip', 'deflate')",
            ),
        ),
        (
            {"grpc_timeout": "soon"},
            grpc_status.trailers_only(
                "INTERNAL", "grpc-timeout is 'soon', expected digits and one of HMSmun"
            ),
        ),
    ],
)
def test_what_is_no_call_is_refused_with_a_whole_answer(
    change: dict[str, str], block: bytes
) -> None:
    assert head(**change).refusal == block  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text", ["application/grpc", "application/grpc+proto", "application/grpc;a"]
)
def test_content_types_of_grpc_are_taken(text: str) -> None:
    assert head(content_type=text).refusal is None  # type: ignore[attr-defined]
