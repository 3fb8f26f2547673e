"""The one place in compress that runs ONNX Runtime, and translates its errors.

Sessions are made for measuring and for parity: one intra-op thread, no spinning, and the CPU,
unless more is asked for.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx

from hlserve.errors import ConfigError, DataError, MissingDependencyError, ModelFileError
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

Provider = Literal["cpu", "cuda", "tensorrt"]

# What ONNX Runtime is asked for, in order: single operators may have no kernel on the first.
_PROVIDERS: dict[Provider, tuple[str, ...]] = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}

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
        provider: what runs it; never another one in silence.
        threads: that share one operator's work.

    Raises:
        ModelFileError: ONNX Runtime does not load it.
        ConfigError: the provider is missing in this installation, or does not start here.
    """

    def __init__(
        self,
        model: bytes,
        *,
        name: str = "model",
        provider: Provider = "cpu",
        threads: int = 1,
    ) -> None:
        self.name = name
        self.provider: Provider = provider
        wanted = _wanted(provider)
        try:
            self._session = ort.InferenceSession(
                model, _options(threads), providers=list(wanted), enable_fallback=0
            )
            self.inputs = tuple(_port(entry) for entry in self._session.get_inputs())
            self.outputs = tuple(_port(entry) for entry in self._session.get_outputs())
        except RUNTIME_ERRORS as error:
            raise ModelFileError(f"{name}: ONNX Runtime cannot load it: {error}") from error
        except UnicodeDecodeError as error:  # a message or an axis that quotes what is no text
            raise ModelFileError(f"{name}: ONNX Runtime cannot load it: it is damaged") from error
        running = self._session.get_providers()
        if running[0] != wanted[0]:  # it goes on with the next one where the first cannot start
            raise ConfigError(
                f"{name}: {wanted[0]} does not start on this machine; ONNX Runtime would run it "
                f"with {', '.join(running)}: see that a GPU and its driver are there"
            )

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


def runtime() -> tuple[str, tuple[str, ...]]:
    """ONNX Runtime's version and the providers that this installation has."""
    return str(ort.__version__), tuple(ort.get_available_providers())


def optimized_operators(model: bytes) -> Counter[str]:
    """How often each operator stands in the graph that ONNX Runtime really runs.

    The optimized file is specific to this machine's processor; it is read and thrown away.
    """
    return Counter(node.op_type for node in optimized(model).graph.node)


def optimized(model: bytes, *, has_layouts: bool = True) -> onnx.ModelProto:
    """The graph that ONNX Runtime really runs on this machine's processor.

    Args:
        model: an ONNX file.
        has_layouts: whether with convolutions in the processor's own layout, which pads channels;
            what is fused, and what runs in integers, is the same without.

    Raises:
        ModelFileError: ONNX Runtime does not load it.
    """
    with tempfile.TemporaryDirectory(prefix="hlserve-") as folder:
        path = Path(folder) / "optimized.onnx"
        options = _options()
        options.optimized_model_filepath = str(path)
        if not has_layouts:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        try:
            ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except RUNTIME_ERRORS as error:
            raise ModelFileError(f"ONNX Runtime cannot load the model: {error}") from error
        return onnx.load(path, load_external_data=False)


def shapes_inside(
    model: onnx.ModelProto, names: Iterable[str], feeds: Mapping[str, Array]
) -> dict[str, tuple[int, ...]]:
    """The shapes of inputs, weights and what operators put out, in a run as the graph stands.

    Args:
        model: stays as it is; often one that ``optimized`` has answered.
        names: outside bodies.
        feeds: rows by input.

    Raises:
        ModelFileError, DataError: it does not load or run with these outputs.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {tensor.name: tuple(tensor.dims) for tensor in copy.graph.initializer}
    known |= {name: array.shape for name, array in feeds.items()}
    wanted = dict.fromkeys(name for name in names if name not in known)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    options = _options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(
            copy.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except RUNTIME_ERRORS as error:
        raise ModelFileError(f"ONNX Runtime cannot load the model: {error}") from error
    try:
        results = session.run(list(wanted), dict(feeds)) if wanted else []
    except RUNTIME_ERRORS + (ValueError,) as error:  # noqa: RUF005  # mypy wants a sum
        raise DataError(f"ONNX Runtime cannot run the model: {error}") from error
    return known | {name: r.shape for name, r in zip(wanted, results, strict=True)}


def as_dtype(array: Array, port: Port) -> Array:
    """The array as the input takes it; float64 tables may feed a float32 model."""
    return np.ascontiguousarray(array, dtype=np.dtype(port.dtype))


def _wanted(provider: Provider) -> tuple[str, ...]:
    if provider not in get_args(Provider):
        raise ConfigError(
            f"provider is {provider!r}, expected one of {', '.join(get_args(Provider))}"
        )
    wanted = _PROVIDERS[provider]
    available = ort.get_available_providers()
    if wanted[0] not in available:
        raise ConfigError(
            f"provider {provider!r} needs {wanted[0]}; this ONNX Runtime has "
            f'{", ".join(available)}. For an NVIDIA GPU type: pip install "hlserve[gpu]"'
        )
    if provider != "cpu":
        ort.preload_dlls()
    return wanted


def _options(threads: int = 1) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
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
        way_out = "; leave ZipMap out (skl2onnx: zipmap=False)" if "map(" in entry.type else ""
        raise ModelFileError(
            f"{entry.name!r} has type {entry.type}; only tensors are handled{way_out}"
        )
    return Port(entry.name, _DTYPES[entry.type], tuple(entry.shape))
