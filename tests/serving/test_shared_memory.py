"""Shared memory: through the server by tritonclient and by hand, and every wrong use of it."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hlserve.errors import AlreadyExistsError, InvalidRequestError, NotFoundError, UnsupportedError
from hlserve.pb.messages import inference, message_class
from hlserve.rpcs import find
from hlserve.serving.shared_memory import SharedMemory
from tests.serving.running import RunningServer, running_server

FOLDER = Path("/dev/shm")
Request = inference.ModelInferRequest

pytestmark = pytest.mark.skipif(not os.access(FOLDER, os.W_OK), reason="no /dev/shm to write to")


@pytest.fixture
def key() -> Iterator[str]:
    name = f"hlserve-test-{uuid.uuid4().hex}"
    (FOLDER / name).write_bytes(bytes(4096))
    yield name
    with suppress(FileNotFoundError):
        (FOLDER / name).unlink()


@pytest.fixture
def memory() -> SharedMemory:
    return SharedMemory(is_on=True)


@pytest.fixture(scope="module")
def sharing(repository: Path, transport: str) -> Iterator[RunningServer]:
    with running_server(repository, shared_memory=True, transport=transport) as running:
        yield running


@pytest.fixture
def channel(sharing: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(sharing.address) as opened:
        yield opened
        call(
            opened, "SystemSharedMemoryUnregister", inference.SystemSharedMemoryUnregisterRequest()
        )


def call(channel: grpc.Channel, name: str, request: Any) -> Any:
    rpc = find(name)
    return channel.unary_unary(
        rpc.path,
        request_serializer=message_class(rpc.request).SerializeToString,
        response_deserializer=message_class(rpc.response).FromString,
    )(request, timeout=20)


def register(channel: grpc.Channel, name: str, key: str, byte_size: int = 4096) -> None:
    request = inference.SystemSharedMemoryRegisterRequest(name=name, key=key, byte_size=byte_size)
    call(channel, "SystemSharedMemoryRegister", request)


def place(tensor: Any, region: str, byte_size: int, offset: int = 0) -> None:
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_byte_size"].int64_param = byte_size
    if offset:
        tensor.parameters["shared_memory_offset"].int64_param = offset


def test_a_region_is_read_written_and_bounded(memory: SharedMemory, key: str) -> None:
    memory.register("r", f"/{key}", 1024, 2048)
    region = memory.get("r")
    region.write(2000, b"x" * 48)
    assert region.read(2000, 48) == b"x" * 48
    assert (FOLDER / key).read_bytes()[3024:3072] == b"x" * 48
    for offset, size in ((2000, 49), (-1, 1), (0, -1), (2**63, 1), (1, 2**63 - 1)):
        with pytest.raises(InvalidRequestError, match="'r' has 2048 bytes, got offset"):
            region.read(offset, size)
    with pytest.raises(InvalidRequestError, match="'r' has 2048 bytes"):
        region.write(2000, b"x" * 49)


def test_a_large_sparse_object_is_not_read_whole(memory: SharedMemory, key: str) -> None:
    """It costs its client nothing, and would cost the server all memory there is."""
    os.truncate(FOLDER / key, 2**40)
    memory.register("r", key, 0, 2**40)
    with pytest.raises(InvalidRequestError, match="expected at most 2147479552"):
        memory.get("r").read(0, 2**40)


@pytest.mark.parametrize("name", ["", "x" * 1025])
def test_a_region_has_a_name_of_some_length(memory: SharedMemory, key: str, name: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"has {len(name)} characters, expected 1 to"):
        memory.register(name, key, 0, 1)


def test_an_object_that_its_client_shortens_gives_an_error(memory: SharedMemory, key: str) -> None:
    """A mapping would end the process by SIGBUS here."""
    memory.register("r", key, 0, 4096)
    os.truncate(FOLDER / key, 100)
    with pytest.raises(InvalidRequestError, match="holds only 100 of 4096 bytes"):
        memory.get("r").read(0, 4096)
    with pytest.raises(InvalidRequestError, match="has 100 bytes, offset and size need 4096"):
        memory.get("r").write(0, b"x" * 4096)


def test_a_request_keeps_the_region_that_is_unregistered_meanwhile(
    memory: SharedMemory, key: str
) -> None:
    memory.register("r", key, 0, 4096)
    region = memory.get("r")
    memory.unregister("r")
    (FOLDER / key).unlink()
    region.write(0, b"late")
    assert region.read(0, 4) == b"late"
    with pytest.raises(NotFoundError, match="region 'r' is not registered"):
        memory.get("r")


def test_descriptors_are_closed_with_their_regions(memory: SharedMemory, key: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        memory.register(str(number), key, 0, 1)
    assert len(os.listdir("/proc/self/fd")) == before + 20
    memory.unregister("")
    with pytest.raises(InvalidRequestError):
        memory.register("r", key, 0, 4097)
    assert len(os.listdir("/proc/self/fd")) == before


def test_names_are_taken_once_and_forgotten_blindly(memory: SharedMemory, key: str) -> None:
    memory.register("r", key, 0, 1)
    with pytest.raises(AlreadyExistsError, match="'r' is registered already"):
        memory.register("r", key, 0, 1)
    memory.unregister("absent")
    assert [region.name for region in memory.status("")] == ["r"]
    with pytest.raises(NotFoundError, match="'absent'"):
        memory.status("absent")
    with pytest.raises(UnsupportedError, match="--system-shared-memory"):
        SharedMemory().status("")


@pytest.mark.parametrize(
    ("bad_key", "offset", "size", "words"),
    [
        ("", 0, 1, "is no name of an object"),
        ("/", 0, 1, "is no name of an object"),
        ("..", 0, 1, "is no name of an object"),
        ("/../etc/passwd", 0, 1, "is no name of an object"),
        ("a/b", 0, 1, "is no name of an object"),
        ("//a", 0, 1, "is no name of an object"),
        ("a\0b", 0, 1, "is no name of an object"),
        ("x" * 300, 0, 1, "key of 300 bytes, expected at most 255"),
        ("hlserve-absent", 0, 1, "cannot be opened: No such file"),
        (None, 0, 0, "has 0 bytes, expected 1 or more"),
        (None, 0, 4097, "has 4096 bytes, offset and size need 4097"),
        (None, 4096, 1, "offset and size need 4097"),
        (None, 2**64 - 1, 2**64 - 1, "offset and size need"),
    ],
)
def test_an_impossible_region_is_refused(
    memory: SharedMemory, key: str, bad_key: str | None, offset: int, size: int, words: str
) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        memory.register("r", key if bad_key is None else bad_key, offset, size)
    assert memory.status("") == []


def test_links_and_other_files_are_not_followed(
    memory: SharedMemory, key: str, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (FOLDER / key).unlink()
    (FOLDER / key).symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidRequestError, match="cannot be opened"):
        memory.register("r", key, 0, 1)
    (FOLDER / key).unlink()
    os.mkfifo(FOLDER / key)
    with pytest.raises(InvalidRequestError, match="is no shared memory object"):
        memory.register("r", key, 0, 1)


def test_tensors_in_the_message_and_in_memory_are_told_apart(
    channel: grpc.Channel, key: str
) -> None:
    """The raw index is not the input's index: the first input has no entry."""
    (FOLDER / key).write_bytes(np.full(2, 5, np.float32).tobytes() + bytes(4088))
    register(channel, "r", key)
    request = Request(model_name="add_and_subtract")
    for name in ("a", "b"):
        request.inputs.add(name=name, datatype="FP32", shape=[1, 2])
    place(request.inputs[0], "r", 8)
    request.raw_input_contents.append(np.full(2, 3, np.float32).tobytes())
    place(request.outputs.add(name="sum"), "r", 64, offset=128)
    request.outputs.add(name="difference")
    answer = call(channel, "ModelInfer", request)
    assert list(answer.raw_output_contents) == [b"", np.full(2, 2, np.float32).tobytes()]
    assert answer.outputs[0].parameters["shared_memory_region"].string_param == "r"
    assert answer.outputs[0].parameters["shared_memory_byte_size"].int64_param == 8
    assert answer.outputs[0].parameters["shared_memory_offset"].int64_param == 128
    assert (FOLDER / key).read_bytes()[128:136] == np.full(2, 8, np.float32).tobytes()


def good() -> Request:
    request = Request(model_name="identity_FP32")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    place(request.inputs[0], "r", 8)
    place(request.outputs.add(name="y"), "r", 8, offset=64)
    return request


def with_input(name: str, **value: Any) -> Callable[[Request], None]:
    return lambda request: (
        request.inputs[0].parameters[name].MergeFrom(inference.InferParameter(**value))
    )


def with_output(name: str, **value: Any) -> Callable[[Request], None]:
    return lambda request: (
        request.outputs[0].parameters[name].MergeFrom(inference.InferParameter(**value))
    )


BAD: dict[str, tuple[Callable[[Request], Any], str, str]] = {
    "unknown region": (
        with_input("shared_memory_region", string_param="absent"),
        "NOT_FOUND",
        "model 'identity_FP32': input 'x': shared memory region 'absent' is not registered",
    ),
    "region of a wrong kind": (
        with_input("shared_memory_region", int64_param=1),
        "INVALID_ARGUMENT",
        "'shared_memory_region' is 1, expected a string",
    ),
    "no size": (
        lambda request: request.inputs[0].parameters.pop("shared_memory_byte_size"),
        "INVALID_ARGUMENT",
        "shared_memory_region came without shared_memory_byte_size",
    ),
    "no region": (
        lambda request: request.inputs[0].parameters.pop("shared_memory_region"),
        "INVALID_ARGUMENT",
        "shared_memory_byte_size came without shared_memory_region",
    ),
    "size of a wrong kind": (
        with_input("shared_memory_byte_size", bool_param=True),
        "INVALID_ARGUMENT",
        "'shared_memory_byte_size' is True, expected an integer",
    ),
    "negative offset": (
        with_input("shared_memory_offset", int64_param=-1),
        "INVALID_ARGUMENT",
        "'shared_memory_offset' is -1, expected an integer from 0",
    ),
    "offset past the end": (
        with_input("shared_memory_offset", int64_param=4089),
        "INVALID_ARGUMENT",
        "input 'x': shared memory region 'r' has 4096 bytes, got offset 4089 and 8 bytes",
    ),
    "offset and size overflow": (
        with_input("shared_memory_offset", int64_param=2**63 - 1),
        "INVALID_ARGUMENT",
        "region 'r' has 4096 bytes, got offset 9223372036854775807",
    ),
    "size unlike the shape": (
        with_input("shared_memory_byte_size", int64_param=12),
        "INVALID_ARGUMENT",
        "input 'x': raw contents hold 12 bytes, expected 8",
    ),
    "more texts than bytes": (
        lambda request: [
            setattr(request.inputs[0], "datatype", "BYTES"),
            request.inputs[0].shape.__setitem__(slice(None), [1, 3]),
        ],
        "INVALID_ARGUMENT",
        "input 'x': raw contents hold 8 bytes, expected at least 12: a length before each of 3",
    ),
    "a million dimensions": (
        lambda request: request.inputs[0].shape.extend([2**62] * 1_000_000),
        "INVALID_ARGUMENT",
        "input 'x': shape of 1000002 dimensions, expected at most 64",
    ),
    "contents beside a region": (
        lambda request: request.inputs[0].contents.fp32_contents.extend([1, 2]),
        "INVALID_ARGUMENT",
        "typed contents beside raw entries or shared memory",
    ),
    "a raw entry beside a region": (
        lambda request: request.raw_input_contents.append(bytes(8)),
        "INVALID_ARGUMENT",
        "1 raw entries came for 0 tensors",
    ),
    "output region too small": (
        with_output("shared_memory_byte_size", int64_param=4),
        "INVALID_ARGUMENT",
        "output 'y' has 8 bytes, shared memory region 'r' was given 4 for it",
    ),
    "output past the end": (
        with_output("shared_memory_offset", int64_param=4090),
        "INVALID_ARGUMENT",
        "output 'y': shared memory region 'r' has 4096 bytes, got offset 4090",
    ),
    "classes into memory": (
        with_output("classification", int64_param=1),
        "INVALID_ARGUMENT",
        "classification and shared memory came together",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_place_gets_its_status_and_the_server_goes_on(
    channel: grpc.Channel, key: str, case: str
) -> None:
    change, status, words = BAD[case]
    register(channel, "r", key)
    request = good()
    change(request)
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "ModelInfer", request)
    details = caught.value.details()
    assert (caught.value.code().name, words in details) == (status, True), details
    assert list(call(channel, "ModelInfer", good()).raw_output_contents) == [b""]


def test_inputs_in_memory_are_bounded_together_as_a_message_is(
    channel: grpc.Channel, key: str
) -> None:
    os.truncate(FOLDER / key, 2**26)
    register(channel, "r", key, 2**26)
    request = Request(model_name="add_and_subtract")
    for name, count in (("a", 2**24), ("b", 1)):
        place(request.inputs.add(name=name, datatype="FP32", shape=[1, count]), "r", 4 * count)
    with pytest.raises(
        grpc.RpcError, match="shared memory hold 67108868 bytes, expected at most 67108864, as in"
    ):
        call(channel, "ModelInfer", request)


def test_a_region_registered_twice_already_exists(channel: grpc.Channel, key: str) -> None:
    register(channel, "r", key)
    with pytest.raises(grpc.RpcError) as caught:
        register(channel, "r", key)
    assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS


def test_tritonclient_registers_infers_and_reads_through_memory(sharing: RunningServer) -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    shm = pytest.importorskip("tritonclient.utils.shared_memory")
    array = np.array([[b"a", b"", "žluť".encode()]], object)
    text = np.frombuffer(b"\1\0\0\0a\0\0\0\0\6\0\0\0" + "žluť".encode(), np.uint8)
    name = f"/hlserve-{uuid.uuid4().hex}"
    handle = shm.create_shared_memory_region("both", name, 4096)
    try:
        shm.set_shared_memory_region(handle, [text])
        with triton.InferenceServerClient(sharing.address) as client:
            client.register_system_shared_memory("both", name, 4096)
            status = client.get_system_shared_memory_status().regions["both"]
            assert (status.key, status.byte_size) == (name, 4096)
            assert "system_shared_memory" in client.get_server_metadata().extensions
            tensor = triton.InferInput("x", [1, 3], "BYTES")
            tensor.set_shared_memory("both", text.nbytes)
            output = triton.InferRequestedOutput("y")
            output.set_shared_memory("both", 64, offset=1024)
            result = client.infer("identity_BYTES", [tensor], outputs=[output])
            assert result.get_output("y").datatype == "BYTES"
            read = shm.get_contents_as_numpy(handle, np.object_, [1, 3], offset=1024)
            assert read.tolist() == array.tolist()
            client.unregister_system_shared_memory()
            client.unregister_cuda_shared_memory()
            assert not client.get_system_shared_memory_status().regions
    finally:
        shm.destroy_shared_memory_region(handle)
