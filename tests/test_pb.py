"""Generated files are what the .proto files say, and stand beside other projects' messages."""

import importlib.util
import subprocess
import sys
from pathlib import Path

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
    "inference.ModelConfig": {"input": 5, "output": 6, "instance_group": 7, "model_warmup": 16},
    "inference.ModelInput": {"dims": 4, "reshape": 5, "optional": 8},
    "inference.ModelOutput": {"dims": 3, "label_filename": 4, "reshape": 5},
    "inference.ModelDynamicBatching": {"priority_levels": 4, "priority_queue_policy": 7},
    "inference.ModelInstanceGroup": {"count": 2, "gpus": 3, "kind": 4},
}


@pytest.mark.parametrize("message", FIELD_NUMBERS)
def test_field_numbers_are_the_protocols(message: str) -> None:
    fields = messages.POOL.FindMessageTypeByName(message).fields_by_name
    expected = FIELD_NUMBERS[message]
    assert {name: fields[name].number for name in expected} == expected


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
