"""Start to first answer, idle CPU and memory of ``hlserve serve`` with one small model.

    python benchmarks/serving_startup.py [--starts 7] [--idle-s 10] [--processes 1]

The clock starts before the process is made and ends when the first ModelInfer is answered; the
client tries again at once until then, from a process that has imported everything already. CPU is
user and system time of the server (and its processes) while nobody asks; memory is resident,
after the first answers.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np

from benchmarks.serving_networks import put, two_layers
from hlserve.pb.messages import inference

INFER = "/inference.GRPCInferenceService/ModelInfer"
TIMEOUT_S = 60.0
MIB = 2**20


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=7)
    parser.add_argument("--idle-s", type=float, default=10.0)
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        put(Path(folder), "small", two_layers(8, 16, 3))
        starts = []
        for _ in range(arguments.starts):
            with served(Path(folder), arguments.processes) as (_, start_s):
                starts.append(start_s)
        with served(Path(folder), arguments.processes) as (pid, _):
            before = cpu_s(pid)
            time.sleep(arguments.idle_s)
            idle = (cpu_s(pid) - before) / arguments.idle_s
            memory = sum(resident_bytes(each) for each in family(pid))
    print(f"CPUs {os.cpu_count()}, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}")
    print("| what | measured | must | stretch |\n|---|---|---|---|")
    print(
        f"| start to first answer, median of {len(starts)} (best) | "
        f"{statistics.median(starts):.2f} s ({min(starts):.2f} s) | 1.2 s | 0.9 s |"
    )
    print(f"| idle CPU over {arguments.idle_s:g} s | {idle:.2%} | 1 % | 0.2 % |")
    print(f"| memory with one small model | {memory / MIB:.0f} MiB | 130 MB | 100 MB |")


@contextmanager
def served(models: Path, processes: int) -> Iterator[tuple[int, float]]:
    """A server that has answered; its process id, and how long that took."""
    port = free_port()
    began = time.perf_counter()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "hlserve",
            "serve",
            str(models),
            "--port",
            str(port),
            "--processes",
            str(processes),
            "--log-level",
            "error",
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for_answer(f"127.0.0.1:{port}", process)
        yield process.pid, time.perf_counter() - began
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)


def wait_for_answer(address: str, process: subprocess.Popen[bytes]) -> None:
    """Asks until the model answers; a refused connection costs 10 ms."""
    request = inference.ModelInferRequest(model_name="small")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 8])
    request.raw_input_contents.append(np.zeros((1, 8), np.float32).tobytes())
    data = request.SerializeToString()
    options = [
        ("grpc.initial_reconnect_backoff_ms", 10),
        ("grpc.min_reconnect_backoff_ms", 10),
        ("grpc.max_reconnect_backoff_ms", 10),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    end = time.monotonic() + TIMEOUT_S
    with grpc.insecure_channel(address, options) as channel:
        call = channel.unary_unary(INFER)
        while True:
            try:
                call(data, timeout=TIMEOUT_S)
            except grpc.RpcError as error:
                if time.monotonic() > end or process.poll() is not None:
                    raise SystemExit(f"no answer: {error}") from error
                time.sleep(0.005)
            else:
                return


def family(pid: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def cpu_s(pid: int) -> float:
    """User and system time of a process and its children."""
    ticks = 0
    for each in family(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])  # utime, stime: man 5 proc
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """VmRSS."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"process {pid} is gone")


def free_port() -> int:
    """A port that nobody has at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
