"""Generated files are what the .proto files say, and stand beside other projects' messages."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hlserve.pb import messages

ROOT = Path(__file__).parents[1]


def test_generated_files_are_up_to_date(tmp_path: Path) -> None:
    """The committed ones equal those made now: a generated file changes only with its source."""
    tools = pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    assert tools
    subprocess.run(
        [sys.executable, str(ROOT / "tools" / "generate_proto.py"), str(tmp_path)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    committed = {
        path.name: path.read_bytes()
        for path in (ROOT / "hlserve" / "pb").iterdir()
        if path.suffix in {".pb", ".pyi", ".proto"}
    }
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == committed


def test_every_proto_file_has_its_namespace() -> None:
    sources = {f"hlserve/pb/{path.name}" for path in (ROOT / "proto/hlserve/pb").glob("*.proto")}
    assert set(messages.FILES) == sources
    assert (
        messages.inference.ModelInferRequest.DESCRIPTOR.full_name == "inference.ModelInferRequest"
    )


FIELD_NUMBERS = {
    "inference.ModelMetadataResponse": {"properties": 6, "platform": 3},
    "inference.InferParameter": {"double_param": 4, "uint64_param": 5},
    "inference.ModelInferRequest": {"raw_input_contents": 7, "parameters": 4},
    "inference.ModelInferResponse": {"raw_output_contents": 6, "outputs": 5},
    "inference.InferTensorContents": {"bytes_contents": 8, "fp32_contents": 6},
}


@pytest.mark.parametrize("message", FIELD_NUMBERS)
def test_field_numbers_are_the_protocols(message: str) -> None:
    fields = messages.POOL.FindMessageTypeByName(message).fields_by_name
    expected = FIELD_NUMBERS[message]
    assert {name: fields[name].number for name in expected} == expected


def wire_of(message: Any) -> dict[str, Any]:
    """Number, type and kind of every field of a message and of those nested in it."""
    wire = {
        f"{message.full_name}.{field.name}": (
            field.number,
            field.type,
            field.is_repeated,
            field.message_type and field.message_type.full_name,
        )
        for field in message.fields
    }
    for nested in message.nested_types:
        wire |= wire_of(nested)
    return wire


def test_every_rpc_of_triton_is_here_with_its_messages_field_by_field() -> None:
    triton = pytest.importorskip("tritonclient.grpc.service_pb2").DESCRIPTOR
    ours = messages.POOL.FindFileByName("hlserve/pb/inference.proto")
    their_methods = triton.services_by_name["GRPCInferenceService"].methods_by_name
    our_methods = ours.services_by_name["GRPCInferenceService"].methods_by_name
    assert set(our_methods) == set(their_methods)
    for name, method in their_methods.items():
        assert our_methods[name].input_type.full_name == method.input_type.full_name
        assert our_methods[name].output_type.full_name == method.output_type.full_name
    for name, message in triton.message_types_by_name.items():
        expected, found = wire_of(message), wire_of(ours.message_types_by_name[name])
        assert {field: found.get(field) for field in expected} == expected


IMPORTS = {
    "tritonclient": "import tritonclient.grpc",
    "kserve": "import kserve",
    "mlserver": "import mlserver.grpc",
}


@pytest.mark.parametrize("order", ["hlserve first", "hlserve last"])
@pytest.mark.parametrize("library", IMPORTS)
def test_other_libraries_of_the_protocol_can_be_imported_beside(library: str, order: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    lines = ["import hlserve.client", IMPORTS[library]]
    code = "; ".join(lines if order == "hlserve first" else reversed(lines))
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
