"""Goodput at three times the load that a server can bear, and what refusing the rest costs.

    PYTHONPATH=. .venv/bin/python benchmarks/serving_overload.py --json overload.json

A model of about 5 ms a run, one row a run, behind a real server in a process of its own. First
the peak: a closed loop of clients. Then an open loop at ``--factor`` times the peak, every call
with a deadline: goodput is what was answered in time. The server's own counts say how many runs
came too late; the clients measure how long a refusal takes, from call to status.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import tempfile
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import grpc.aio
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from tabulate import tabulate

from hlserve.codec import encode_inputs
from hlserve.pb.messages import inference
from hlserve.serving.batching_config import BatchingConfig
from hlserve.serving.config import ServerConfig
from hlserve.serving.server import Server

_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_WIDTH = 512
_CLOSED_LOOP_CLIENTS = 4
_WARM_UP_S = 1.0


@dataclass(frozen=True)
class Counts:
    """What the server says of one part of the benchmark, since it began."""

    answered: int
    refused: int
    refusal_ms: float
    runs: int
    run_ms: float
    late: int


def main() -> None:
    """Measures the peak and the overload, in turns, and prints both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-ms", type=float, default=5.0, help="of one run of the model")
    parser.add_argument("--factor", type=float, default=3.0, help="of the peak")
    parser.add_argument("--deadline-ms", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each part")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _publish(Path(folder), args.run_ms / 1000)
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(Path(folder), there))
        process.start()
        try:
            rows = asyncio.run(_measure(args, here))
        finally:
            here.send("end")
            process.join(30)
    columns = list(zip(*(row.values() for row in rows), strict=True))
    print(tabulate(rows, headers="keys", floatfmt=".2f"))
    medians = {key: float(np.median(values)) for key, values in zip(rows[0], columns, strict=True)}
    print(f"\nmedian goodput {medians['goodput %']:.1f} % of peak; ", end="")
    print(f"late runs {sum(row['late runs'] for row in rows):.0f}")
    if args.json:
        args.json.write_text(json.dumps({"rounds": rows, "median": medians}, indent=1))


# ----- the model and the server -----


def _publish(root: Path, run_s: float) -> None:
    layers = 40
    for _ in range(3):  # the first guess, and two corrections
        content = _chain(layers)
        layers = max(1, round(layers * run_s / _run_s(content)))
    folder = root / "five" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(_chain(layers))


def _chain(layers: int) -> bytes:
    rng = np.random.default_rng(0)
    w = (rng.standard_normal((_WIDTH, _WIDTH)) / np.sqrt(_WIDTH)).astype(np.float32)
    nodes, name = [], "x"
    for layer in range(layers):
        nodes.append(helper.make_node("MatMul", [name, "w"], [f"h{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"h{layer}"], [f"a{layer}"]))
        name = f"a{layer}"
    nodes.append(helper.make_node("Identity", [name], ["y"]))
    kind = (TensorProto.FLOAT, ["batch", _WIDTH])
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", *kind)],
        [helper.make_tensor_value_info("y", *kind)],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


def _run_s(content: bytes) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    feed = {"x": np.ones((1, _WIDTH), np.float32)}
    times = []
    for _ in range(40):
        begun_s = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - begun_s)
    return float(np.median(times[10:]))


def _serve(models: Path, pipe: Connection) -> None:
    async def serve() -> None:
        config = ServerConfig(models=models, port=0, batching=BatchingConfig(max_rows=1))
        server = Server(config)
        await server.start()
        pipe.send(server.port)
        statistics = server.models[0].statistics
        while await asyncio.to_thread(pipe.recv) != "end":
            pipe.send(
                Counts(
                    answered=statistics.success.count,
                    refused=statistics.failures["REJECTED"],
                    refusal_ms=statistics.fail.ns / 1e6,
                    runs=statistics.execution_count,
                    run_ms=statistics.compute_infer.ns / 1e6,
                    late=statistics.late,
                )
            )
        await server.drain()

    asyncio.run(serve())


# ----- the clients -----


@dataclass(frozen=True)
class _Outcome:
    """One call: how it ended and how long it took."""

    kind: str  # "answered", "refused" by the server, or "expired" at the client
    seconds: float


async def _measure(args: argparse.Namespace, server: Connection) -> list[dict[str, float]]:
    port = await asyncio.to_thread(server.recv)
    request = inference.ModelInferRequest(model_name="five")
    encode_inputs(request, {"x": np.ones((1, _WIDTH), np.float32)})
    content = request.SerializeToString()
    rows = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(_METHOD)
        await _closed_loop(call, content, _WARM_UP_S)
        for number in range(args.rounds):
            peak = await _closed_loop(call, content, args.seconds)
            before = _counts(server)
            rate = args.factor * peak
            outcomes = await _open_loop(call, content, rate, args, seed=number)
            rows.append(_row(peak, outcomes, before, _counts(server), args))
            print(tabulate(rows[-1:], headers="keys", floatfmt=".2f"), flush=True)
    return rows


def _counts(server: Connection) -> Counts:
    server.send("counts")
    counts = server.recv()
    assert isinstance(counts, Counts)
    return counts


async def _closed_loop(call: grpc.aio.UnaryUnaryMultiCallable, content: bytes, s: float) -> float:
    """Answers a second with a few clients that wait for each answer."""
    ends_s = time.perf_counter() + s

    async def client() -> int:
        count = 0
        while time.perf_counter() < ends_s:
            await call(content)
            count += 1
        return count

    return sum(await asyncio.gather(*(client() for _ in range(_CLOSED_LOOP_CLIENTS)))) / s


async def _open_loop(
    call: grpc.aio.UnaryUnaryMultiCallable,
    content: bytes,
    rate: float,
    args: argparse.Namespace,
    *,
    seed: int,
) -> list[_Outcome]:
    """Calls that come when they come (Poisson), however long the earlier ones take."""
    rng = np.random.default_rng(seed)
    gaps_s = rng.exponential(1 / rate, round(rate * args.seconds))

    async def one() -> _Outcome:
        begun_s = time.perf_counter()
        try:
            await call(content, timeout=args.deadline_ms / 1000)
            kind = "answered"
        except grpc.aio.AioRpcError as error:
            is_refusal = "answered in time" in (error.details() or "")
            kind = "refused" if is_refusal else "expired"
        return _Outcome(kind, time.perf_counter() - begun_s)

    calls = []
    at_s = time.perf_counter()
    for gap_s in gaps_s:
        at_s += gap_s
        await asyncio.sleep(max(0.0, at_s - time.perf_counter()))
        calls.append(asyncio.ensure_future(one()))
    return list(await asyncio.gather(*calls))


def _row(
    peak: float, outcomes: list[_Outcome], before: Counts, after: Counts, args: argparse.Namespace
) -> dict[str, float]:
    count = dict.fromkeys(("answered", "refused", "expired"), 0)
    for outcome in outcomes:
        count[outcome.kind] += 1
    refusals_ms = [o.seconds * 1000 for o in outcomes if o.kind == "refused"] or [float("nan")]
    server = {key: asdict(after)[key] - value for key, value in asdict(before).items()}
    goodput = count["answered"] / args.seconds
    return {
        "peak /s": peak,
        "offered /s": len(outcomes) / args.seconds,
        "goodput /s": goodput,
        "goodput %": 100 * goodput / peak,
        "refused": count["refused"],
        "expired at client": count["expired"],
        "refusal p50 ms": float(np.percentile(refusals_ms, 50)),
        "p99 ms": float(np.percentile(refusals_ms, 99)),
        "in server mean ms": server["refusal_ms"] / max(1, server["refused"]),
        "run ms": server["run_ms"] / max(1, server["runs"]),
        "late runs": server["late"],
    }


if __name__ == "__main__":
    main()
