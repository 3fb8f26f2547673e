"""Header blocks: our reading equals hpack's, cached or not; our own blocks say what they mean."""

import pytest
from hpack import Decoder, Encoder, HPACKError
from hypothesis import given, settings
from hypothesis import strategies as st

from hlserve.serving.transports.http2.frames import ConnectionFaultError
from hlserve.serving.transports.http2.headers import HeaderDecoder, encode

MAX_BYTES = 2**15

# Few names and values, so that blocks repeat and the table is used; lengths around 127, where an
# integer takes a second byte.
NAMES = st.sampled_from([b":path", b"te", b"x", b"grpc-timeout", b"traceparent", b"n" * 127])
VALUES = st.one_of(
    st.sampled_from([b"", b"trailers", b"v" * 126, b"v" * 127, b"v" * 300, b"v" * 3000]),
    st.binary(max_size=20),
)
FIELDS = st.lists(st.tuples(NAMES, VALUES, st.booleans()), max_size=8)
BLOCKS = st.lists(st.tuples(FIELDS, st.booleans(), st.sampled_from([None, 0, 100, 4096])))


def decoder() -> HeaderDecoder[list[tuple[bytes, bytes]]]:
    return HeaderDecoder(list, MAX_BYTES)


@settings(max_examples=200, deadline=None)
@given(BLOCKS)
def test_every_sequence_of_blocks_decodes_as_hpack_decodes_it(
    blocks: list[tuple[list[tuple[bytes, bytes, bool]], bool, int | None]],
) -> None:
    encoder, ours, theirs = Encoder(), decoder(), Decoder()
    for fields, huffman, table_bytes in blocks:
        if table_bytes is not None:
            encoder.header_table_size = table_bytes
        block = encoder.encode(fields, huffman=huffman)
        expected = [(bytes(n), bytes(v)) for n, v in theirs.decode(block, raw=True)]
        assert ours.request(block) == expected == [(n, v) for n, v, _ in fields]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=4))
def test_garbage_is_taken_or_refused_as_hpack_takes_or_refuses_it(blocks: list[bytes]) -> None:
    ours, theirs = decoder(), Decoder(max_header_list_size=MAX_BYTES)
    for block in blocks:
        try:
            expected = [(bytes(n), bytes(v)) for n, v in theirs.decode(block, raw=True)]
        except (HPACKError, IndexError, ValueError):
            with pytest.raises(ConnectionFaultError):
                ours.request(block)
            return
        assert ours.request(block) == expected


def test_a_block_is_made_once_until_the_table_changes() -> None:
    made: list[object] = []
    encoder = Encoder()
    ours = HeaderDecoder(lambda fields: made.append(fields) or len(made), MAX_BYTES)
    fields = [("a", "1"), ("b", "2")]
    first, again = encoder.encode(fields), encoder.encode(fields)
    assert [ours.request(block) for block in (first, again, again, again)] == [1, 2, 2, 2]
    ours.skip(encoder.encode([("c", "3")]))  # moves every entry by one
    assert ours.request(encoder.encode(fields)) == 3


def test_our_blocks_leave_every_table_alone() -> None:
    fields = [
        (b":status", b"200"),
        (b":status", b"415"),
        (b"content-type", b"application/grpc"),
        (b"grpc-message", b"m" * 5000),
    ]
    theirs = Decoder()
    block = encode(fields)
    assert [tuple(field) for field in theirs.decode(block, raw=True)] == fields
    assert not theirs.header_table.dynamic_entries
