"""The one place in compress that runs ONNX Runtime, and translates its errors.

Sessions are made for measuring and for parity: one intra-op thread, no spinning, the CPU.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hlserve.errors import DataError, MissingDependencyError, ModelFileError
from hlserve.nn.param import Array

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else the import may warn and write a file
try:
    import onnxruntime as ort  # type: ignore[import-untyped]  # ships no stubs
    from onnxruntime.capi import (  # type: ignore[import-untyped]
        onnxruntime_pybind11_state as ort_errors,
    )
except ImportError as error:
    raise MissingDependencyError(
        'ONNX Runtime is not installed; type: pip install "hlserve[cpu]" (or "hlserve[gpu]")'
    ) from error

RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.NoModel,
    ort_errors.RuntimeException,
    ort_errors.EPFail,
)
MOST_FOLDED_BYTES = 2**26  # of one constant that is computed when a model loads
_FATAL_ONLY = 4  # log severity: what goes wrong is raised anyway

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
} | {f"tensor({u}int{b})": f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64)}


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a model: ``shape`` holds sizes, names, or None where unknown."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


class Session:
    """A model loaded in ONNX Runtime.

    Args:
        model: the serialized model.
        name: what messages call it.

    Raises:
        ModelFileError: ONNX Runtime does not load it.
    """

    def __init__(self, model: bytes, *, name: str = "model") -> None:
        self.name = name
        try:
            self._session = ort.InferenceSession(
                model, _options(), providers=["CPUExecutionProvider"], enable_fallback=0
            )
            self.inputs = tuple(_port(entry) for entry in self._session.get_inputs())
            self.outputs = tuple(_port(entry) for entry in self._session.get_outputs())
        except RUNTIME_ERRORS as error:
            raise ModelFileError(f"{name}: ONNX Runtime cannot load it: {error}") from error
        except UnicodeDecodeError as error:  # a message or an axis that quotes what is no text
            raise ModelFileError(f"{name}: ONNX Runtime cannot load it: it is damaged") from error

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every output for one batch.

        Raises:
            DataError: ONNX Runtime refuses the arrays or fails on them.
        """
        try:
            results: Sequence[Array] = self._session.run(None, dict(feeds))
        except RUNTIME_ERRORS + (ValueError,) as error:  # noqa: RUF005  # mypy wants a sum
            raise DataError(f"{self.name}: ONNX Runtime cannot run it: {error}") from error
        return dict(zip((o.name for o in self.outputs), results, strict=True))


def optimized_operators(model: bytes) -> Counter[str]:
    """How often each operator stands in the graph that ONNX Runtime really runs.

    The optimized file is specific to this machine's processor; it is read and thrown away.
    """
    with tempfile.TemporaryDirectory(prefix="hlserve-") as folder:
        path = Path(folder) / "optimized.onnx"
        options = _options()
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except RUNTIME_ERRORS as error:
            raise ModelFileError(f"ONNX Runtime cannot load the model: {error}") from error
        graph = onnx.load(path).graph
    return Counter(node.op_type for node in graph.node)


def as_dtype(array: Array, port: Port) -> Array:
    """The array as the input takes it; float64 tables may feed a float32 model."""
    return np.ascontiguousarray(array, dtype=np.dtype(port.dtype))


def _options() -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A few bytes of a hostile file may ask for a constant of any size, at load.
    options.add_session_config_entry(
        "optimization.constant_folding_max_output_size_in_bytes", str(MOST_FOLDED_BYTES)
    )
    return options


def _port(entry: Any) -> Port:
    if entry.type not in _DTYPES:
        raise ModelFileError(f"{entry.name!r} has type {entry.type}; only tensors are handled")
    return Port(entry.name, _DTYPES[entry.type], tuple(entry.shape))
