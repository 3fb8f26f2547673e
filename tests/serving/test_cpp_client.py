"""A C++ client, whose HTTP/2 is gRPC's own: it checks what comes back itself."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.serving.running import RunningServer

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tests" / "clients" / "cpp" / "client.cc"
PROTOS = [f"hlserve/pb/{name}.proto" for name in ("inference", "model_config")]
TOOLS = ("g++", "pkg-config", "protoc", "grpc_cpp_plugin")
WHAT = ("unary", "large", "gzip", "concurrent", "stream", "deadline")

pytestmark = pytest.mark.slow  # half a minute of compiler


def run(command: Sequence[str | Path], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for tool in TOOLS:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: `make serving-packages` installs it")
    if subprocess.run(["pkg-config", "--exists", "grpc++", "protobuf"], check=False).returncode:
        pytest.skip("libgrpc++-dev is not installed: `make serving-packages` installs it")
    folder = tmp_path_factory.mktemp("cpp")
    plugin = f"--plugin=protoc-gen-grpc={shutil.which('grpc_cpp_plugin')}"
    made = ["--cpp_out=.", "--grpc_out=.", plugin]
    run(["protoc", f"--proto_path={ROOT / 'proto'}", *made, *PROTOS], folder)
    sources = [
        path for path in sorted(folder.rglob("*.cc")) if "model_config.grpc" not in path.name
    ]
    libraries = run(["pkg-config", "--cflags", "--libs", "grpc++", "protobuf"], folder).split()
    built = ["g++", "-std=c++17", "-O0", "-I.", "-o", "client", SOURCE, *sources, *libraries]
    run(built, folder)
    return folder / "client"


@pytest.mark.parametrize("what", WHAT)
def test_cpp_gets_its_own_values_back(program: Path, server: RunningServer, what: str) -> None:
    done = subprocess.run(
        [program, server.address, what], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
