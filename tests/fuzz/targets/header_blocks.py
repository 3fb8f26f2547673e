"""Header blocks: our decoder beside hpack's own."""

from hpack import Decoder, HPACKError

from hlserve.serving.transports.http2.frames import ConnectionFaultError, MalformedRequestError
from hlserve.serving.transports.http2.grpc_request import RequestHead, RequestReader
from hlserve.serving.transports.http2.headers import HeaderDecoder

Field = tuple[bytes, bytes]
MAX_BYTES = 2**12
MAX_METADATA_BYTES = 2**10


def header_blocks(data: bytes) -> None:
    """Blocks one after the other, each after a byte that says how long it is.

    The highest bit: the block before comes again in front of it.
    """
    ours, theirs = HeaderDecoder(list, MAX_BYTES), Decoder(max_header_list_size=MAX_BYTES)
    reader = RequestReader(MAX_METADATA_BYTES)
    heads = HeaderDecoder(reader, MAX_BYTES, reader.extend)
    before: bytes | None = None
    while data:
        size, again = data[0] & 0x7F, data[0] & 0x80
        block, data = data[1 : 1 + size], data[1 + size :]
        for each in [before, block] if again and before is not None else [block]:
            fields = _read_alike(ours, theirs, each)
            if fields is None:
                return
            _check_head(heads, each, fields)
        before = block


def _read_alike(
    ours: HeaderDecoder[list[Field]], theirs: Decoder, block: bytes
) -> list[Field] | None:
    """What both read; None: both refuse, and the connection would end."""
    expected: list[Field] | None
    try:
        expected = [(bytes(n), bytes(v)) for n, v in theirs.decode(block, raw=True)]
    except (HPACKError, IndexError, ValueError):
        expected = None
    try:
        got = ours.request(block)
    except ConnectionFaultError as fault:
        # hpack takes integers of any number of bytes; RFC 7541, 5.1, lets us stop before.
        is_long = "more than 5 bytes" in str(fault.__cause__)
        assert expected is None or is_long, f"we refuse what hpack reads as {expected}"
        return None
    assert got == expected, f"we read {got}, hpack {expected}"
    _check_table(ours, theirs)
    return got


def _check_table(ours: HeaderDecoder[list[Field]], theirs: Decoder) -> None:
    """As seen by a block that asks for every entry."""
    for index in range(62, 130):
        block = bytes([0x80 | index]) if index < 127 else b"\xff" + bytes([index - 127])
        try:
            expected = [(bytes(n), bytes(v)) for n, v in theirs.decode(block, raw=True)]
        except HPACKError:
            return  # the end of the table
        assert ours.request(block) == expected


def _check_head(heads: HeaderDecoder[RequestHead], block: bytes, fields: list[Field]) -> None:
    """What is made of a block with all that is kept of earlier ones, and of its fields alone."""
    try:
        got = heads.request(block)
    except MalformedRequestError:
        got = None
    try:
        expected = RequestReader(MAX_METADATA_BYTES)(fields)
    except MalformedRequestError:
        expected = None
    assert got == expected, f"with what is kept {got}, without {expected}"
    if got is not None and got.refusal is None:
        assert got.timeout_s is None or got.timeout_s >= 0
        assert sum(map(len, got.metadata.values())) <= MAX_METADATA_BYTES
