"""What `make fuzz` found worth keeping is run again, and the targets can fail."""

from pathlib import Path
from typing import Any

import pytest

from hlserve.serving.builds import is_compiled
from hlserve.serving.request import InferRequest
from hlserve.serving.transports.http2.connection import Connection
from hlserve.serving.transports.http2.fast_infer import FastInfer
from hlserve.serving.transports.http2.grpc_framing import MessageReader
from hlserve.serving.transports.http2.headers import HeaderDecoder
from hlserve.serving.transports.http2.sending import Sender
from tests.fuzz.targets import TARGETS
from tools.fuzz import KEPT, NAMES

MAX_CORPUS_BYTES = 200_000
RECEIVE = Connection.receive

# A method of what each target looks at, and one that does something else.
BROKEN: dict[str, tuple[type, str, Any]] = {
    "frames": (Connection, "receive", lambda self, data: RECEIVE(self, data[:30])),
    "header_blocks": (HeaderDecoder, "request", lambda self, block: []),
    "grpc_messages": (MessageReader, "feed", lambda self, data: [data]),
    "infer_requests": (FastInfer, "decode", lambda self, data, deadline_s: InferRequest("m", {})),
    "infer_answers": (FastInfer, "encode", lambda self, answer: b""),
    "calls": (Sender, "reply", lambda self, stream, head, data, end: self.data(stream, data)),
}


def corpus(name: str) -> list[Path]:
    return sorted((KEPT / name).iterdir())


def test_the_fuzzer_knows_every_target() -> None:
    assert tuple(TARGETS) == NAMES


@pytest.mark.parametrize("name", TARGETS)
def test_every_kept_input_holds(name: str) -> None:
    inputs = corpus(name)
    assert inputs
    for path in inputs:
        try:
            TARGETS[name](path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{path} fails: {error!r}") from error


def test_the_corpus_is_small() -> None:
    sizes = [path.stat().st_size for name in TARGETS for path in corpus(name)]
    assert sum(sizes) < MAX_CORPUS_BYTES


@pytest.mark.skipif(is_compiled(), reason="compiled functions call each other past their names")
@pytest.mark.parametrize("name", TARGETS)
def test_a_target_fails_where_the_code_is_wrong(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*BROKEN[name])
    failed = 0
    for path in corpus(name):
        try:
            TARGETS[name](path.read_bytes())
        except Exception:
            failed += 1
    assert failed
