"""One ONNX Runtime session: arrays in, arrays out, its errors in our words."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlserve import datatypes
from hlserve.datatypes import Datatype
from hlserve.errors import InferenceError, InvalidRequestError, ModelFileError, ProviderError
from hlserve.serving.config import ProviderConfig
from hlserve.serving.providers import execution_providers, import_onnxruntime, provider_options

Array = NDArray[Any]

# Where a model without a folder may have external data: nowhere.
_NO_FOLDER = "/nonexistent"

_ONNX_BFLOAT16 = 16  # TensorProto.DataType

_STATUS_PREFIX = re.compile(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_SOURCE_LOCATION = re.compile(r"\S*\.(?:cc|h|cpp):\d+ (?:[\w:]+::)?\w+(?:\([^)]*\))? ?")
_MAX_REASON_CHARS = 400


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output as the graph declares it.

    Attributes:
        name: the tensor's name.
        datatype: its row.
        shape: -1 = variable; () = a scalar, or a rank that the graph does not state (ONNX Runtime
            reports both alike), so it is not checked.
        symbols: the name of each variable dimension, None where it has none or is fixed.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    symbols: tuple[str | None, ...]


class Session:
    """A loaded model.

    The CPU's memory arena is off: it keeps the memory of the largest run ever made (a small
    convolution network at 4,096 rows: 600 MB), and without it runs measured as fast. Custom-op
    libraries are never registered: they are code.

    Args:
        model: the content of an ONNX file.
        folder: where its external data may lie; None: it may have none. ONNX Runtime itself
            refuses absolute paths, paths out of the folder, and links out of it.
        provider: where it runs: a name of ``hlserve.serving.providers``, or more than that.
        intra_op_threads: threads of one run; 0 = a thread a core.
        spins: whether idle intra-op threads spin. They burn a core each then, and slow the
            neighbours.

    Attributes:
        inputs, outputs: as the graph declares them, or narrower once ``narrow`` was called.
        output_names: of ``outputs``.

    Raises:
        ModelFileError: the graph is corrupt, needs an operator that is not there, has external
            data outside the folder, or a tensor that the protocol cannot carry.
        ProviderError: the session did not get the provider asked for.
        MissingDependencyError: ONNX Runtime is not installed.
    """

    def __init__(
        self,
        model: bytes,
        *,
        folder: Path | None = None,
        provider: str | ProviderConfig = "cpu",
        intra_op_threads: int = 1,
        spins: bool = False,
    ) -> None:
        onnxruntime = import_onnxruntime()
        self._errors = _exception_classes(onnxruntime)
        where = ProviderConfig(provider) if isinstance(provider, str) else provider
        providers = execution_providers(where.name)
        options = _session_options(onnxruntime, folder, intra_op_threads, spins=spins)
        try:
            self._session = onnxruntime.InferenceSession(
                model,
                options,
                providers=list(providers),
                provider_options=provider_options(providers, where.device, where.options),
            )
        except self._errors as error:
            raise ModelFileError(f"ONNX Runtime cannot load it: {_reason(error)}") from error
        self._session.disable_fallback()  # a provider that fails is an error, not a silent CPU
        obtained = self._session.get_providers()
        if obtained[0] != providers[0]:
            raise ProviderError(f"asked for {providers[0]}, the session got {', '.join(obtained)}")
        self.inputs = tuple(_tensor_info("input", arg) for arg in self._session.get_inputs())
        self.outputs = tuple(_tensor_info("output", arg) for arg in self._session.get_outputs())
        self.output_names = tuple(tensor.name for tensor in self.outputs)
        self._text_inputs = frozenset(i.name for i in self.inputs if i.datatype.name == "BYTES")
        tensors = (*self.inputs, *self.outputs)
        self._has_bf16 = any(tensor.datatype.name == "BF16" for tensor in tensors)
        if self._has_bf16 and any(tensor.datatype.name == "BYTES" for tensor in tensors):
            raise ModelFileError("it has text beside bfloat16, which ONNX Runtime cannot be given")
        self._make_value = onnxruntime.OrtValue
        # Past what the Python wrapper checks before each run, where there is a way: names were
        # checked, and the checks take as long as a small network.
        self._run = getattr(self._session, "_sess", self._session).run

    def narrow(self, inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...]) -> None:
        """Offers less than the graph: dims that a configuration fixes, outputs that it names."""
        self.inputs, self.outputs = inputs, outputs
        self.output_names = tuple(tensor.name for tensor in outputs)

    def close(self) -> None:
        """Gives the memory back; no run may be going on, none is possible afterwards."""
        self._session = self._run = None

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """The outputs asked for, in that order; safe from several threads at once.

        Raises:
            InferenceError: ONNX Runtime failed.
            InvalidRequestError: text was not UTF-8, which its tensors need.
        """
        if self._session is None:
            raise InferenceError("its version was unloaded")
        feed: Mapping[str, Array] = inputs
        if self._text_inputs:
            feed = {
                name: _to_text(name, array) if name in self._text_inputs else array
                for name, array in inputs.items()
            }
        try:
            if self._has_bf16:
                return self._run_values(feed, outputs)
            results = self._run(list(outputs), feed, None)
        except self._errors as error:
            raise InferenceError(f"ONNX Runtime failed: {_reason(error)}") from error
        return {name: _as_array(result) for name, result in zip(outputs, results, strict=True)}

    def _run_values(self, feed: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """A run with BF16, which ONNX Runtime takes and gives as values of its own only."""
        values = {name: self._value(array) for name, array in feed.items()}
        results = self._session.run_with_ort_values(list(outputs), values)
        return {name: _from_value(result) for name, result in zip(outputs, results, strict=True)}

    def _value(self, array: Array) -> Any:
        array = np.ascontiguousarray(array)
        if array.dtype != datatypes.BF16_BITS:
            return self._make_value.ortvalue_from_numpy(array)
        bits = array.view(np.uint16)
        return self._make_value.ortvalue_from_numpy_with_onnx_type(bits, _ONNX_BFLOAT16)


def _session_options(
    onnxruntime: Any, folder: Path | None, intra_op_threads: int, *, spins: bool
) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    for key, value in {
        "session.intra_op.allow_spinning": str(int(spins)),
        "session.inter_op.allow_spinning": "0",
        "session.model_external_initializers_file_folder_path": str(folder or _NO_FOLDER),
    }.items():
        options.add_session_config_entry(key, value)
    return options


def _exception_classes(onnxruntime: Any) -> tuple[type[Exception], ...]:
    """Everything that a load or run raises; ONNX Runtime's classes have no common root."""
    state = onnxruntime.capi.onnxruntime_pybind11_state
    own = [c for c in vars(state).values() if isinstance(c, type) and issubclass(c, Exception)]
    return (*own, RuntimeError, ValueError, MemoryError, NotImplementedError)


def _reason(error: Exception) -> str:
    """The message's first line without status prefix and places in ONNX Runtime's source."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = _SOURCE_LOCATION.sub("", _STATUS_PREFIX.sub("", lines[0])).strip()
    return text[:_MAX_REASON_CHARS] or type(error).__name__


def _tensor_info(kind: str, arg: Any) -> TensorInfo:
    datatype = datatypes.by_onnx_type(arg.type)
    if datatype is None:
        raise ModelFileError(f"{kind} {arg.name!r} is {arg.type}, which the protocol cannot carry")
    return TensorInfo(
        name=arg.name,
        datatype=datatype,
        shape=tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in arg.shape),
        symbols=tuple(dim if isinstance(dim, str) else None for dim in arg.shape),
    )


def _to_text(name: str, array: Array) -> Array:
    """Objects of str from objects of bytes; ONNX Runtime would take the repr of bytes."""
    elements = np.empty(array.size, dtype=object)
    try:
        elements[:] = [v.decode() if isinstance(v, bytes) else v for v in array.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"input {name!r} holds bytes that are not UTF-8, which ONNX text tensors need: {error}"
        ) from error
    return elements.reshape(array.shape)


def _from_value(value: Any) -> Array:
    if value.data_type() != "tensor(bfloat16)":
        return _as_array(value.numpy())
    data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(data, datatypes.BF16_BITS).reshape(value.shape())


def _as_array(result: Any) -> Array:
    if not isinstance(result, np.ndarray):
        raise InferenceError(f"an output is {type(result).__name__}, expected a tensor")
    return result
