"""What is fuzzed: plain functions of bytes that return, or raise because something is wrong.

An input means the same in every run: no target keeps anything from one input to the next.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from tests.fuzz.targets.calls import calls
from tests.fuzz.targets.frames import frames
from tests.fuzz.targets.grpc_messages import grpc_messages
from tests.fuzz.targets.header_blocks import header_blocks
from tests.fuzz.targets.infer_answers import infer_answers
from tests.fuzz.targets.infer_requests import infer_requests

TARGETS: Mapping[str, Callable[[bytes], None]] = MappingProxyType(
    {
        target.__name__: target
        for target in (
            frames,
            header_blocks,
            grpc_messages,
            infer_requests,
            infer_answers,
            calls,
        )
    }
)
