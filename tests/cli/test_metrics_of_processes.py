"""Metrics of several processes are one page."""

import re
import signal
import socket
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest

from hlserve.pb.messages import inference
from hlserve.serving.server import TRANSPORTS
from tests.cli.test_serve_processes import TIMEOUT_S, served
from tests.serving import models

INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_metrics_of_all_processes_are_added_up_on_one_page(tmp_path: Path, transport: str) -> None:
    models.put(tmp_path, "mlp", models.mlp())
    request = inference.ModelInferRequest(model_name="mlp")
    request.inputs.add(name="input", datatype="FP32", shape=[1, 8])
    request.raw_input_contents.append(np.zeros((1, 8), np.float32).tobytes())
    data = request.SerializeToString()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        metrics = str(taken.getsockname()[1])
    arguments = (
        "--port",
        "0",
        "--processes",
        "2",
        "--metrics-port",
        metrics,
        "--transport",
        transport,
    )
    with served(tmp_path, *arguments) as (process, address):
        for _ in range(20):  # each by a connection of its own: the kernel spreads them
            with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                channel.unary_unary(INFER)(data, timeout=TIMEOUT_S)
        with urllib.request.urlopen(
            f"http://127.0.0.1:{metrics}/metrics", timeout=TIMEOUT_S
        ) as page:
            text = page.read().decode()
        found = re.search(
            r"^nv_inference_request_success(?:_total)?{[^}]*mlp[^}]*} (\S+)$", text, re.M
        )
        assert found is not None, text
        assert float(found[1]) == 20
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0
