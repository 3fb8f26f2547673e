"""Request parameters: reserved ones mean something, wrong ones are told, the rest is harmless."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from hlserve.pb.messages import inference
from tests.serving.running import RunningServer
from tests.serving.test_bad_input import INVALID, Request, changed, good, send, tensor

PARAMETER = inference.InferParameter(bool_param=True)


@pytest.fixture(scope="module")
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


def set_parameter(name: str, **value: Any) -> Callable[[], Request]:
    return changed(
        lambda request: request.parameters[name].MergeFrom(inference.InferParameter(**value))
    )


def set_classes(**value: Any) -> Callable[[], Request]:
    def change(request: Request) -> None:
        parameters = request.outputs.add(name="logits").parameters
        parameters["classification"].MergeFrom(inference.InferParameter(**value))

    return changed(change)


def classes_of_text() -> Request:
    request = tensor("identity_BYTES", "BYTES", [1, 1], b"\1\0\0\0a")()
    request.outputs.add(name="y").parameters["classification"].int64_param = 1
    return request


CASES: dict[str, tuple[Callable[[], Request], str, str]] = {
    "priority of a wrong kind": (
        set_parameter("priority", string_param="1"),
        INVALID,
        "model 'mlp': parameter 'priority' is '1', expected an integer from 0 to 4294967295",
    ),
    "priority below zero": (
        set_parameter("priority", int64_param=-1),
        INVALID,
        "parameter 'priority' is -1, expected an integer from 0",
    ),
    "priority as a bool": (
        set_parameter("priority", bool_param=True),
        INVALID,
        "parameter 'priority' is True, expected an integer",
    ),
    "timeout below zero": (
        set_parameter("timeout", int64_param=-1),
        INVALID,
        "parameter 'timeout' is -1, expected an integer from 0",
    ),
    "timeout past 63 bits": (
        set_parameter("timeout", uint64_param=2**63),
        INVALID,
        "parameter 'timeout' is 9223372036854775808",
    ),
    "timeout of a wrong kind": (
        set_parameter("timeout", double_param=1.5),
        INVALID,
        "parameter 'timeout' is 1.5, expected an integer",
    ),
    "a sequence": (
        set_parameter("sequence_id", int64_param=7),
        "UNIMPLEMENTED",
        "model 'mlp' is no sequence model, so it takes no parameter 'sequence_id'",
    ),
    "a sequence by text": (
        set_parameter("sequence_id", string_param="mine"),
        "UNIMPLEMENTED",
        "it takes no parameter 'sequence_id'",
    ),
    "a sequence's end without a start": (
        set_parameter("sequence_end", bool_param=True),
        "UNIMPLEMENTED",
        "it takes no parameter 'sequence_end'",
    ),
    "sequence start of a wrong kind": (
        set_parameter("sequence_start", int64_param=1),
        INVALID,
        "parameter 'sequence_start' is 1, expected a bool",
    ),
    "sequence id of a wrong kind": (
        set_parameter("sequence_id", bool_param=True),
        INVALID,
        "parameter 'sequence_id' is True, expected an integer or a string",
    ),
    "unknown triton parameter": (
        set_parameter("triton_magic", bool_param=True),
        INVALID,
        "unknown parameter 'triton_magic': names that begin with 'triton_' are reserved",
    ),
    "final response of a wrong kind": (
        set_parameter("triton_enable_empty_final_response", string_param="yes"),
        INVALID,
        "'triton_enable_empty_final_response' is 'yes', expected a bool",
    ),
    "more than 10,000 parameters": (
        changed(lambda r: [r.parameters[f"p{n}"].MergeFrom(PARAMETER) for n in range(10_001)]),
        INVALID,
        "model 'mlp': 10001 parameters came, expected at most 10000",
    ),
    "classes below zero": (
        set_classes(int64_param=-1),
        INVALID,
        "model 'mlp': output 'logits': parameter 'classification' is -1, expected an integer",
    ),
    "classes of a wrong kind": (
        set_classes(string_param="2"),
        INVALID,
        "parameter 'classification' is '2', expected an integer",
    ),
    "classes of text": (
        classes_of_text,
        INVALID,
        "model 'identity_BYTES' version 1: output 'y': its values are no numbers",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_parameter_gets_its_status_and_the_server_goes_on(
    channel: grpc.Channel, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    make, status, words = CASES[case]
    with pytest.raises(grpc.RpcError) as caught:
        send(channel, make())
    details = caught.value.details()
    assert (caught.value.code().name, words in details) == (status, True), details
    assert len(caplog.records) <= 1
    assert len(send(channel, good()).outputs) == 2


HARMLESS = {
    "no priority": ("priority", {"uint64_param": 0}),
    "no timeout": ("timeout", {"int64_param": 0}),
    "a long timeout": ("timeout", {"int64_param": 2**63 - 1}),
    "no sequence": ("sequence_id", {"int64_param": 0}),
    "no sequence by text": ("sequence_id", {"string_param": ""}),
    "no start": ("sequence_start", {"bool_param": False}),
    "a bool": ("mine", {"bool_param": True}),
    "an integer": ("mine", {"int64_param": -5}),
    "an unsigned integer": ("mine", {"uint64_param": 2**64 - 1}),
    "a number": ("mine", {"double_param": 0.5}),
    "a text": ("mine", {"string_param": "ž"}),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_parameters_without_effect_are_taken(channel: grpc.Channel, case: str) -> None:
    name, value = HARMLESS[case]
    assert len(send(channel, set_parameter(name, **value)()).outputs) == 2
