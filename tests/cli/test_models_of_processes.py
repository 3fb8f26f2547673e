"""Loading and unloading by call where several processes serve one port."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from hlserve.pb.messages import inference, message_class
from hlserve.rpcs import find
from tests.cli.test_serve_processes import (
    TIMEOUT_S,
    children,
    connections,
    served,
    wait_until,
)
from tests.serving import models

OPTIONS = (
    *("--port", "0", "--processes", "2", "--no-metrics"),
    *("--model-control", "explicit", "--access-log", "--log-format", "json"),
)
# Each by a connection of its own; one process alone would get all of them once in 2^19.
MANY = 20


def call(address: str, name: str, /, **fields: Any) -> Any:
    """By a connection of its own: the kernel gives each to one of the processes."""
    rpc = find(name)
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        return channel.unary_unary(
            rpc.path,
            request_serializer=message_class(rpc.request).SerializeToString,
            response_deserializer=message_class(rpc.response).FromString,
        )(message_class(rpc.request)(**fields), timeout=TIMEOUT_S)


def ready(address: str) -> set[bool]:
    return {call(address, "ModelReady", name="mlp").ready for _ in range(MANY)}


def infer(address: str) -> None:
    tensor = inference.ModelInferRequest.InferInputTensor(
        name="input", datatype="FP32", shape=[1, 8]
    )
    rows = np.zeros((1, 8), np.float32).tobytes()
    for _ in range(MANY):
        call(address, "ModelInfer", model_name="mlp", inputs=[tensor], raw_input_contents=[rows])


def test_a_model_is_loaded_and_unloaded_in_every_process_and_its_counts_add_up(
    tmp_path: Path,
) -> None:
    models.put(tmp_path, "mlp", models.mlp())
    with served(tmp_path, *OPTIONS) as (process, address):
        assert ready(address) == {False}
        call(address, "RepositoryModelLoad", model_name="mlp")
        assert ready(address) == {True}
        infer(address)
        counted = [call(address, "ModelStatistics", name="mlp") for _ in range(5)]
        assert {answer.model_stats[0].inference_count for answer in counted} == {MANY}

        workers = children(process)
        os.kill(min(workers), signal.SIGKILL)
        wait_until(lambda: len(children(process) - workers) == 1)
        (fresh,) = children(process) - workers
        port = int(address.rsplit(":", 1)[1])
        wait_until(lambda: connections({fresh}, port)[fresh] > 0)
        assert ready(address) == {True}, "one that starts later has loaded it too"

        call(address, "RepositoryModelUnload", model_name="mlp")
        assert ready(address) == {False}
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=TIMEOUT_S)
    lines = [json.loads(line) for line in log.splitlines()]
    named = {line["method"].rsplit("/")[-1]: line["model"] for line in lines if "method" in line}
    assert set(named) == {
        *("ModelReady", "ModelInfer", "ModelStatistics"),
        *("RepositoryModelLoad", "RepositoryModelUnload"),
    }
    assert set(named.values()) == {"mlp"}
