"""Goodput at three times the load that a server can bear, and what refusing the rest costs.

    PYTHONPATH=. .venv/bin/python benchmarks/serving_overload.py --json overload.json

A model of about 5 ms a run, one row a run, behind a real server in a process of its own. First
the peak: a closed loop of clients. Then an open loop at ``--factor`` times the peak, every call
with a deadline: goodput is what was answered in time. The server's own counts say how many runs
came too late. How long a refusal takes is told twice: from call to status at the client, and in the
server alone, where it is also told how many were refused only after they had been admitted.

Give server and clients cores of their own where there are enough, and the server no less than two:
the run of the model keeps one busy, and the loop that refuses wants another. On one core alone the
refusals (about 0.4 ms each with grpcio, most of it its own) leave 84 % of the peak at most.

    ... benchmarks/serving_overload.py --server-cores 0,1 --client-cores 2
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
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

from benchmarks.serving_networks import put
from hlserve.codec import encode_inputs
from hlserve.pb.messages import inference
from hlserve.serving.batching_config import BatchingConfig
from hlserve.serving.config import ServerConfig, Wire
from hlserve.serving.observing import MetricsConfig
from hlserve.serving.server import Server, loop_factory
from hlserve.serving.statistics import HISTOGRAM_BOUNDS_S, Duration

_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_WIDTH = 512
_CLOSED_LOOP_CLIENTS = 4
_WARM_UP_S = 1.0


@dataclass(frozen=True)
class Counts:
    """What the server says of one part of the benchmark, since it began."""

    answered: int
    refused: int
    cancelled: int
    refusal_ms: float
    refused_in_1_ms: int
    refused_in_5_ms: int
    runs: int
    run_ms: float
    late: int
    cpu_s: float


def main() -> None:
    """Measures the peak and the overload, in turns, and prints both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-ms", type=float, default=5.0, help="of one run of the model")
    parser.add_argument("--factor", type=float, default=3.0, help="of the peak")
    parser.add_argument("--deadline-ms", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each part")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--transport", choices=("http2", "grpcio"), default="http2")
    parser.add_argument("--server-cores", type=_cores, default=frozenset(), metavar="0,1")
    parser.add_argument("--client-cores", type=_cores, default=frozenset(), metavar="2")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _publish(Path(folder), args.run_ms / 1000)
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(
            target=_serve, args=(Path(folder), there, args.server_cores, args.transport)
        )
        process.start()
        if args.client_cores:
            os.sched_setaffinity(0, args.client_cores)
        try:
            rows = asyncio.run(_measure(args, here))
        finally:
            here.send("end")
            process.join(30)
    medians = {key: float(np.median([row[key] for row in rows])) for key in rows[0]}
    lines = [[key, *(row[key] for row in rows), medians[key]] for key in medians]
    headers = ["", *(f"round {number + 1}" for number in range(len(rows))), "median"]
    print(tabulate(lines, headers=headers, floatfmt=".2f"))
    print(f"\nmedian goodput {medians['goodput %']:.1f} % of peak; ", end="")
    late, runs = (sum(row[key] for row in rows) for key in ("late runs", "runs"))
    print(f"{late:.0f} of {runs:.0f} runs ended too late")
    if args.json:
        args.json.write_text(json.dumps({"rounds": rows, "median": medians}, indent=1))


def _cores(text: str) -> frozenset[int]:
    return frozenset(int(core) for core in text.split(","))


# ----- the model and the server -----


def _publish(root: Path, run_s: float) -> None:
    layers = 40
    for _ in range(3):  # the first guess, and two corrections
        content = _chain(layers)
        layers = max(1, round(layers * run_s / _run_s(content)))
    put(root, "five", _chain(layers))


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


def _serve(models: Path, pipe: Connection, cores: frozenset[int], transport: Wire) -> None:
    if cores:
        os.sched_setaffinity(0, cores)

    async def serve() -> None:
        config = ServerConfig(
            models=models,
            port=0,
            batching=BatchingConfig(max_rows=1),
            metrics=MetricsConfig(port=None),  # the spread of times is recorded
            transport=transport,
        )
        server = Server(config)
        await server.start()
        pipe.send(server.port)
        statistics = server.models[0].statistics
        while await asyncio.to_thread(pipe.recv) != "end":
            pipe.send(
                Counts(
                    answered=statistics.success.count,
                    refused=statistics.failures["REJECTED"],
                    cancelled=statistics.failures["CANCELED"],
                    refusal_ms=statistics.fail.ns / 1e6,
                    refused_in_1_ms=_in_time(statistics.fail, 0.001),
                    refused_in_5_ms=_in_time(statistics.fail, 0.005),
                    runs=statistics.execution_count,
                    run_ms=statistics.compute_infer.ns / 1e6,
                    late=statistics.late,
                    cpu_s=time.process_time(),
                )
            )
        await server.drain()

    with asyncio.Runner(loop_factory=loop_factory(transport)) as runner:
        runner.run(serve())


def _in_time(duration: Duration, seconds: float) -> int:
    return sum(duration.buckets[: HISTOGRAM_BOUNDS_S.index(seconds) + 1])


# ----- the clients -----


@dataclass(frozen=True)
class _Outcome:
    """One call: how it ended and how long it took."""

    # "answered"; by the server "refused" at once or "dropped" after it was admitted; "expired" at
    # the client; "other": no status that an overload should give.
    kind: str
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
            before, begun_s = _counts(server), time.process_time()
            rate = args.factor * peak
            outcomes = await _open_loop(call, content, rate, args, seed=number)
            client_s = time.process_time() - begun_s
            rows.append(_row(peak, outcomes, before, _counts(server), args))
            rows[-1]["client cores"] = client_s / args.seconds
            print(f"round {number + 1}: {rows[-1]['goodput %']:.1f} % of peak", flush=True)
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
            kind = _kind(error)
        return _Outcome(kind, time.perf_counter() - begun_s)

    calls = []
    at_s = time.perf_counter()
    for gap_s in gaps_s:
        at_s += gap_s
        await asyncio.sleep(max(0.0, at_s - time.perf_counter()))
        calls.append(asyncio.ensure_future(one()))
    return list(await asyncio.gather(*calls))


def _kind(error: grpc.aio.AioRpcError) -> str:
    details = error.details() or ""
    if "cannot be answered in time" in details:
        return "refused"
    if "can no longer be answered" in details:
        return "dropped"
    return "expired" if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED else "other"


def _row(
    peak: float, outcomes: list[_Outcome], before: Counts, after: Counts, args: argparse.Namespace
) -> dict[str, float]:
    count = dict.fromkeys(("answered", "refused", "dropped", "expired", "other"), 0)
    for outcome in outcomes:
        count[outcome.kind] += 1
    kinds = ("refused", "dropped")
    refusals_ms = [o.seconds * 1000 for o in outcomes if o.kind in kinds] or [float("nan")]
    server = {key: asdict(after)[key] - value for key, value in asdict(before).items()}
    goodput = count["answered"] / args.seconds
    return {
        "peak /s": peak,
        "offered /s": len(outcomes) / args.seconds,
        "goodput /s": goodput,
        "goodput %": 100 * goodput / peak,
        "refused": count["refused"],
        "dropped": count["dropped"],
        "expired at client": count["expired"],
        "other": count["other"],
        "refusal p50 ms": float(np.percentile(refusals_ms, 50)),
        "p99 ms": float(np.percentile(refusals_ms, 99)),
        "in server mean ms": server["refusal_ms"] / max(1, server["refused"]),
        "<= 1 ms %": 100 * server["refused_in_1_ms"] / max(1, server["refused"]),
        "<= 5 ms %": 100 * server["refused_in_5_ms"] / max(1, server["refused"]),
        "cancelled in server": server["cancelled"],
        "runs": server["runs"],
        "run ms": server["run_ms"] / max(1, server["runs"]),
        "late runs": server["late"],
        "server cores": server["cpu_s"] / args.seconds,
    }


if __name__ == "__main__":
    main()
