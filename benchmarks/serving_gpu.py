"""Served through the CUDA provider against ``session.run`` with IO binding, batch 64.

    PYTHONPATH=. .venv/bin/python -m benchmarks.serving_gpu models --json gpu.json

Takes every model of a repository whose inputs have a variable first axis, and a network of two
layers, 4096 wide. Without a GPU, or with an ONNX Runtime that has no CUDA provider, it says so and
ends with 0.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tabulate import tabulate

from benchmarks.serving_networks import put, two_layers
from hlserve.bench.load import closed_loop

Array = NDArray[Any]

PROVIDER = "CUDAExecutionProvider"
BATCH, WIDTH = 64, 4096
SECONDS = 3.0
CALLERS = 4
WARM_UP_RUNS = 20
# Of the largest output: TF32 and another order of sums on the GPU.
TOLERANCE = 2e-3
_DTYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int64)": np.int64}


@dataclass(frozen=True, slots=True)
class Row:
    """One model: rows a second each way, and whether the answers agree."""

    model: str
    bound_rows_per_s: float
    served_rows_per_s: float
    largest_difference: float

    @property
    def share(self) -> float:
        """What serving keeps of the bound session's throughput; must be 0.9, better 0.95."""
        return self.served_rows_per_s / self.bound_rows_per_s


def main() -> None:
    """Prints the table, or why there is none."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, help="a model repository")
    parser.add_argument("--json", default="")
    args = parser.parse_args()
    reason = _why_not()
    if reason:
        print(f"skipped: {reason}")
        return
    with tempfile.TemporaryDirectory() as folder:
        root = _repository(args.models, Path(folder))
        with _server(root) as address:
            rows = [_row(address, path) for path in sorted(root.glob("*/*/model.onnx"))]
    print(tabulate([{**asdict(row), "share": row.share} for row in rows], headers="keys"))
    if args.json:
        Path(args.json).write_text(json.dumps([asdict(row) for row in rows]))


def _why_not() -> str:
    if PROVIDER not in onnxruntime.get_available_providers():
        return f"this ONNX Runtime has no {PROVIDER}: pip install 'hlserve[gpu]'"
    onnxruntime.preload_dlls()
    wide = onnxruntime.InferenceSession(two_layers(WIDTH, WIDTH, 10), providers=[PROVIDER])
    return "" if wide.get_providers()[0] == PROVIDER else "no NVIDIA GPU answers"


def _repository(models: Path, root: Path) -> Path:
    for path in sorted(models.glob("*/*/model.onnx")):
        link = root / path.parent.parent.name / path.parent.name
        link.mkdir(parents=True)
        (link / "model.onnx").write_bytes(path.read_bytes())
    put(root, "wide", two_layers(WIDTH, WIDTH, 10))
    return root


@contextmanager
def _server(root: Path) -> Iterator[str]:
    command = [
        *(sys.executable, "-m", "hlserve", "serve", str(root)),
        *("--port", "0", "--provider", "cuda", "--max-batch-size", str(BATCH)),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait(timeout=60)


def _row(address: str, path: Path) -> Row:
    from hlserve.client import InferenceClient

    name = path.parent.parent.name
    session = onnxruntime.InferenceSession(path, providers=[PROVIDER])
    inputs = _inputs(session)
    with InferenceClient(address) as client:
        answers = client.infer(name, inputs).outputs
    expected = dict(zip(answers, session.run(list(answers), dict(inputs)), strict=True))
    difference = max(
        float(np.max(np.abs(answers[key] - expected[key]))) / float(np.max(np.abs(expected[key])))
        for key in answers
    )
    if difference > TOLERANCE:
        raise SystemExit(f"{name}: answers differ by {difference:.2g} of the largest")
    load = closed_loop(address, name, inputs, callers=CALLERS, seconds=SECONDS, rows=BATCH)
    return Row(name, _bound(session, inputs), load.per_second * BATCH, difference)


def _inputs(session: Any) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        arg.name: rng.uniform(0, 1, (BATCH, *_columns(arg.shape))).astype(_DTYPES[arg.type])
        for arg in session.get_inputs()
    }


def _columns(shape: list[int | str | None]) -> list[int]:
    return [dim if isinstance(dim, int) else 8 for dim in shape[1:]]


def _bound(session: Any, inputs: Mapping[str, Array]) -> float:
    """Rows a second with the inputs copied in and the outputs copied out at every run."""
    outputs = [arg.name for arg in session.get_outputs()]

    def run() -> None:
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        for name in outputs:
            binding.bind_output(name)
        session.run_with_iobinding(binding)
        binding.copy_outputs_to_cpu()

    for _ in range(WARM_UP_RUNS):
        run()
    started, runs = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        run()
        runs += 1
    return runs * BATCH / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
