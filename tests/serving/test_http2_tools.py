"""Other HTTP/2 clients, which know nothing of gRPC: curl, and nghttp2's load generator."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hlserve.client import InferenceClient
from hlserve.pb.messages import inference
from hlserve.serving.transports.http2.grpc_framing import framed
from tests.serving.running import RunningServer

INFER = "/inference.GRPCInferenceService/ModelInfer"
MODEL = "identity_UINT16"
HEADERS = ("content-type: application/grpc", "te: trailers")
TIMEOUT_S = 120


def tool(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: Debian's package is {package}")
    return found


@pytest.fixture
def body(tmp_path: Path) -> Path:
    """A framed request."""
    request = inference.ModelInferRequest(model_name=MODEL, id="seven")
    request.inputs.add(name="x", datatype="UINT16", shape=[1, 1000])
    request.raw_input_contents.append(bytes(range(250)) * 8)
    path = tmp_path / "request"
    path.write_bytes(framed(request.SerializeToString()))
    return path


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def headers() -> list[str]:
    return [part for header in HEADERS for part in ("-H", header)]


def test_curl_gets_the_message_and_its_trailers(
    server: RunningServer, body: Path, tmp_path: Path
) -> None:
    answer, heads = tmp_path / "answer", tmp_path / "heads"
    run(
        *(tool("curl", "curl"), "-s", "--http2-prior-knowledge", "--data-binary", f"@{body}"),
        *(*headers(), "-o", answer, "-D", heads, f"http://{server.address}{INFER}"),
    )
    head, _, trailers = heads.read_text().replace("\r", "").partition("\n\n")
    assert head.startswith("HTTP/2 200")
    assert "content-type: application/grpc" in head.splitlines()
    assert "grpc-status: 0" in trailers.splitlines()
    data = answer.read_bytes()
    assert data[:5] == b"\0" + (len(data) - 5).to_bytes(4, "big")
    got = inference.ModelInferResponse.FromString(data[5:])
    assert (got.id, list(got.outputs[0].shape)) == ("seven", [1, 1000])
    assert got.raw_output_contents[0] == bytes(range(250)) * 8


@pytest.mark.parametrize(("connections", "streams"), [(1, 1), (10, 100)])
def test_h2load_sees_no_call_fail(
    server: RunningServer, body: Path, connections: int, streams: int
) -> None:
    calls = 20 * connections * min(streams, 10)
    before = answered(server)
    said = run(
        *(tool("h2load", "nghttp2-client"), "-n", str(calls), "-c", str(connections)),
        *("-m", str(streams), "-d", body, *headers(), f"http://{server.address}{INFER}"),
    )
    found = re.search(r"status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx", said)
    assert found is not None, said
    assert int(found[1]) == calls
    assert f"{calls} succeeded, 0 failed, 0 errored, 0 timeout" in said
    # It does not look at grpc-status; the server counts what it answered well.
    assert answered(server) - before == calls


def answered(server: RunningServer) -> int:
    with InferenceClient(server.address, timeout_s=20) as client:
        return client.model_statistics(MODEL)[0].success.count
