"""The clients of the soak, a process each: ``ROLE ADDRESS MODELS SECONDS SEED``.

Each prints, at its end, what it counted and what it has to complain of, as JSON. Clients that check
answers run every request again in ONNX Runtime, row by row.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.serving_soak_models import COMES_AND_GOES, RELOADED, Case, cases
from hlserve import codec
from hlserve.pb.messages import inference
from hlserve.rpcs import find

Array = NDArray[Any]

IN_FLIGHT = 8
# Sums of up to 512 products in float32, in an order that depends on the batch.
TOLERANCE = 1e-4
TIMEOUT_S = 60.0
MAX_COMPLAINTS = 20
PAUSE_S = 0.02  # between bad requests: they are there to disturb, not to be the load


@dataclass(slots=True)
class Tally:
    """What one client saw."""

    counts: dict[str, int] = field(default_factory=lambda: {"wrong": 0, "lost": 0})
    complaints: list[str] = field(default_factory=list)

    def add(self, name: str, complaint: str = "") -> None:
        """Counts one."""
        self.counts[name] = self.counts.get(name, 0) + 1
        if complaint and len(self.complaints) < MAX_COMPLAINTS:
            self.complaints.append(complaint)


class Oracle:
    """ONNX Runtime on the same files, a row at a time."""

    def __init__(self, models: Path) -> None:
        self._sessions = {
            case.name: onnxruntime.InferenceSession(models / case.name / "1" / "model.onnx")
            for case in cases()
        }

    def answer(self, case: Case, inputs: dict[str, Array]) -> Array:
        """What the model says, row by row."""
        session = self._sessions[case.name]
        rows = len(next(iter(inputs.values())))
        parts = [
            session.run(["y"], {name: array[row : row + 1] for name, array in inputs.items()})[0]
            for row in range(rows)
        ]
        return np.concatenate(parts)


def main() -> None:
    """Runs one role until its time is over."""
    role, address, models, seconds, seed = sys.argv[1:6]
    end = time.monotonic() + float(seconds)
    tally = Tally()
    asyncio.run(ROLES[role](address, Path(models), end, int(seed), tally))
    print(json.dumps({"counts": tally.counts, "complaints": tally.complaints}))


def _request(case: Case, inputs: dict[str, Array], request_id: str) -> Any:
    request = inference.ModelInferRequest(model_name=case.name, id=request_id)
    codec.encode_inputs(request, inputs)
    return request


def _check(case: Case, response: Any, expected: Array, request_id: str, tally: Tally) -> None:
    got = codec.decode_tensors(response.outputs, response.raw_output_contents, where="output")["y"]
    is_right = got.shape == expected.shape and np.allclose(got, expected, atol=TOLERANCE, rtol=0)
    if is_right and response.id == request_id:
        tally.add("answered")
    else:
        tally.add("wrong", f"{case.name}: wrong answer to {request_id}")


def _infer(channel: grpc.aio.Channel) -> Any:
    return channel.unary_unary(
        find("ModelInfer").path,
        request_serializer=inference.ModelInferRequest.SerializeToString,
        response_deserializer=inference.ModelInferResponse.FromString,
    )


async def steady(address: str, models: Path, end: float, seed: int, tally: Tally) -> None:
    """Checks every answer; a request without one is lost."""
    oracle = Oracle(models)
    served = [case for case in cases() if case.name != COMES_AND_GOES]
    async with grpc.aio.insecure_channel(address) as channel:
        workers = [
            _unary_worker(channel, oracle, served, end, seed * 1000 + number, tally)
            for number in range(IN_FLIGHT - 2)
        ]
        workers += [
            _stream_worker(channel, oracle, served, end, seed * 1000 + 900 + number, tally)
            for number in range(2)
        ]
        await asyncio.gather(*workers)


async def _unary_worker(
    channel: grpc.aio.Channel,
    oracle: Oracle,
    served: list[Case],
    end: float,
    seed: int,
    tally: Tally,
) -> None:
    rng = np.random.default_rng(seed)
    infer = _infer(channel)
    turn = 0
    while time.monotonic() < end:
        turn += 1
        case = served[int(rng.integers(len(served)))]
        inputs = case.inputs(rng)
        request_id = f"{seed}-{turn}"
        try:
            response = await infer(_request(case, inputs, request_id), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            tally.add("lost", f"{case.name}: {error.code().name}: {error.details()}")
            continue
        _check(case, response, oracle.answer(case, inputs), request_id, tally)


async def _stream_worker(
    channel: grpc.aio.Channel,
    oracle: Oracle,
    served: list[Case],
    end: float,
    seed: int,
    tally: Tally,
) -> None:
    """Streams of up to 50 requests, one after another."""
    rng = np.random.default_rng(seed)
    call = channel.stream_stream(
        find("ModelStreamInfer").path,
        request_serializer=inference.ModelInferRequest.SerializeToString,
        response_deserializer=inference.ModelStreamInferResponse.FromString,
    )
    turn = 0
    while time.monotonic() < end:
        turn += 1
        sent: dict[str, tuple[Case, Array]] = {}
        requests = []
        for number in range(int(rng.integers(1, 50))):
            case = served[int(rng.integers(len(served)))]
            inputs = case.inputs(rng)
            request_id = f"{seed}-{turn}-{number}"
            sent[request_id] = (case, oracle.answer(case, inputs))
            requests.append(_request(case, inputs, request_id))
        try:
            async for response in call(_iterate(requests), timeout=TIMEOUT_S):
                answer = response.infer_response
                case, expected = sent.pop(answer.id)
                if response.error_message:
                    tally.add("lost", f"stream: {response.error_message}")
                    continue
                _check(case, answer, expected, answer.id, tally)
        except grpc.aio.AioRpcError as error:
            tally.add("lost", f"stream: {error.code().name}: {error.details()}")
            continue
        for request_id in sent:
            tally.add("lost", f"stream: no answer to {request_id}")


async def _iterate(requests: list[Any]) -> AsyncIterator[Any]:
    for request in requests:
        yield request


async def bad(address: str, models: Path, end: float, seed: int, tally: Tally) -> None:
    """Requests that must be refused; each must be, with a client's status."""
    refused = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    rng = random.Random(seed)
    async with grpc.aio.insecure_channel(address) as channel:
        send = channel.unary_unary(find("ModelInfer").path)
        while time.monotonic() < end:
            try:
                await send(_bad_request(rng), timeout=TIMEOUT_S)
                tally.add("wrong", "a bad request was answered")
            except grpc.aio.AioRpcError as error:
                if error.code() in refused:
                    tally.add("refused")
                else:
                    tally.add("lost", f"a bad request: {error.code().name}: {error.details()}")
            await asyncio.sleep(PAUSE_S)


def _bad_request(rng: random.Random) -> bytes:
    request = inference.ModelInferRequest(model_name=rng.choice(["mlp", "absent", "../mlp"]))
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 8])
    kind = rng.randrange(5)
    if kind == 0:
        return rng.randbytes(40) + b"\xff"
    if kind == 1:
        tensor.shape[1] = 1 << 40
    if kind == 2:
        tensor.datatype = "FP8"
    if kind == 3:
        tensor.name = "y" * rng.randrange(1, 5000)
    request.raw_input_contents.append(b"\0" * (31 if kind == 4 else 33))
    return request.SerializeToString()


async def control(address: str, models: Path, end: float, seed: int, tally: Tally) -> None:
    """Reloads one model, takes another away and back, and asks for loads that must fail."""
    async with grpc.aio.insecure_channel(address) as channel:
        load = channel.unary_unary(
            find("RepositoryModelLoad").path,
            request_serializer=inference.RepositoryModelLoadRequest.SerializeToString,
        )
        unload = channel.unary_unary(
            find("RepositoryModelUnload").path,
            request_serializer=inference.RepositoryModelUnloadRequest.SerializeToString,
        )
        while time.monotonic() < end:
            try:
                await load(inference.RepositoryModelLoadRequest(model_name=RELOADED))
                await unload(inference.RepositoryModelUnloadRequest(model_name=COMES_AND_GOES))
                await load(inference.RepositoryModelLoadRequest(model_name=COMES_AND_GOES))
                tally.add("reloads", "")
            except grpc.aio.AioRpcError as error:
                tally.add("lost", f"reload: {error.code().name}: {error.details()}")
            try:
                await load(_failing_load())
                tally.add("wrong", "a load of garbage succeeded")
            except grpc.aio.AioRpcError:
                tally.add("failed loads")
            await asyncio.sleep(0.2)


def _failing_load() -> Any:
    request = inference.RepositoryModelLoadRequest(model_name=RELOADED)
    request.parameters["config"].string_param = "{}"
    request.parameters["file:1/model.onnx"].bytes_param = b"<html>not found</html>"
    return request


async def garbage(address: str, models: Path, end: float, seed: int, tally: Tally) -> None:
    """Bytes that are no HTTP/2, connections that say nothing, connections left half-open."""
    rng = random.Random(seed)
    host, port = address.rsplit(":", 1)
    silent: list[socket.socket] = []
    while time.monotonic() < end:
        try:
            one = socket.create_connection((host, int(port)), timeout=5)
            kind = rng.randrange(3)
            if kind == 0:
                one.sendall(rng.randbytes(rng.randrange(1, 4096)))
            if kind == 1:
                one.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(200))
            silent.append(one)
            tally.add("garbage")
        except OSError:
            tally.add("garbage refused")
        if len(silent) > 20:
            silent.pop(0).close()
        await asyncio.sleep(PAUSE_S)


async def killed(address: str, models: Path, end: float, seed: int, tally: Tally) -> None:
    """Sends large requests and is gone in the middle of them."""
    rng = np.random.default_rng(seed)
    wide = next(case for case in cases() if case.name == "wide")
    inputs = {"x": rng.standard_normal((4096, 256), dtype=np.float32)}
    async with grpc.aio.insecure_channel(address) as channel:
        infer = _infer(channel)
        calls = [infer(_request(wide, inputs, str(n)), timeout=TIMEOUT_S) for n in range(8)]
        await asyncio.wait(
            [asyncio.ensure_future(_swallow(call)) for call in calls],
            timeout=float(rng.uniform(0.0, 0.5)),
        )
        os.kill(os.getpid(), signal.SIGKILL)


async def _swallow(call: Any) -> None:
    try:
        await call
    except grpc.aio.AioRpcError:
        return


ROLES = {"steady": steady, "bad": bad, "control": control, "garbage": garbage, "killed": killed}

if __name__ == "__main__":
    main()
