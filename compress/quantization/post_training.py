"""Post-training int8 of any ONNX file, by ONNX Runtime's own quantizer, where that can pay.

Unsigned activations and signed weights, whole islands only (see ``placement``): of the runtime's
operators those that fuse on x86. Recurrent layers have an integer form only with dynamic
quantization; convolutions are never quantized dynamically, which is slow or does not load.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import onnx
from onnxruntime.quantization import (  # type: ignore[import-untyped]  # ships no stubs
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from compress.graph_step import GraphStep
from compress.model_file import nodes, opset
from compress.session import RUNTIME_ERRORS
from hlserve.errors import CompressionError
from hlserve.nn.param import Array

PER_CHANNEL_OPSET = 13
CALIBRATION_BATCH = 8

_CORE = ("Conv", "Gemm", "MatMul")
# Beside them, what passes integers on or adds in integers, so that islands join.
_NEIGHBOURS = (
    *("Add", "AveragePool", "Concat", "Flatten", "GlobalAveragePool", "MaxPool"),
    *("Reshape", "Transpose"),
)
_DYNAMIC = ("Gemm", "LSTM", "MatMul")

# What the quantizer raises on graphs that it does not understand.
_QUANTIZER_ERRORS: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    *RUNTIME_ERRORS,
)


@final
@dataclass(frozen=True, slots=True)
class PostTraining(GraphStep):
    """One way to quantize a file.

    Attributes:
        name: what reports call it.
        static: operators whose activations are calibrated on rows.
        dynamic: operators whose activations are measured at run time; quantized first.
        per_channel: a scale for each output channel of the weights, or one for all.
    """

    name: str
    static: tuple[str, ...] = ()
    dynamic: tuple[str, ...] = ()
    per_channel: bool = False

    def apply(
        self, model: onnx.ModelProto, feeds: Mapping[str, Array], *, batch: int | None = None
    ) -> onnx.ModelProto:
        """The quantized model; that it loads and runs is for the caller to see.

        Args:
            model: stays as it is.
            feeds: rows to calibrate on.
            batch: rows a run, where the model takes only one number of them.

        Raises:
            CompressionError: the quantizer cannot take this graph.
        """
        with tempfile.TemporaryDirectory(prefix="hlserve-") as folder, _quiet_quantizer():
            source, target = Path(folder) / "source.onnx", Path(folder) / "target.onnx"
            onnx.save(model, source)
            try:
                if self.dynamic:
                    self._quantize_dynamic(source, target)
                    source = target.replace(source) if self.static else source
                if self.static:
                    self._quantize_static(source, target, _Reader(feeds, batch))
                return onnx.load(target)
            except _QUANTIZER_ERRORS as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
                raise CompressionError(f"ONNX Runtime's quantizer fails: {reason}") from error

    def _quantize_static(self, source: Path, target: Path, rows: CalibrationDataReader) -> None:
        quantize_static(
            source,
            target,
            rows,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(self.static),
            per_channel=self.per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )

    def _quantize_dynamic(self, source: Path, target: Path) -> None:
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=list(self.dynamic),
            per_channel=self.per_channel,
            weight_type=QuantType.QInt8,
        )


# LSTM's integer form keeps int8 weights and measures its input and state in every step; GRU and
# RNN have none in ONNX Runtime.
DYNAMIC_LSTM = PostTraining("dynamic int8 LSTM", dynamic=("LSTM",))


def ways(model: onnx.ModelProto) -> tuple[PostTraining, ...]:
    """Those worth trying on this graph."""
    kinds = {node.op_type for node in nodes(model.graph)}
    has_core = bool(kinds & set(_CORE))
    can_split_channels = opset(model) >= PER_CHANNEL_OPSET
    found: list[PostTraining] = []
    if has_core and can_split_channels:
        found.append(PostTraining("static int8 per channel", static=_CORE, per_channel=True))
    if has_core:
        found.append(PostTraining("static int8", static=_CORE))
        if kinds & set(_NEIGHBOURS):
            found.append(PostTraining("static int8 with neighbours", static=_CORE + _NEIGHBOURS))
    if kinds & set(_DYNAMIC) and "Conv" not in kinds:
        found.append(PostTraining("dynamic int8", dynamic=_DYNAMIC))
    if "LSTM" in kinds and _has_default_layout(model):
        found.append(DYNAMIC_LSTM)
        if has_core:
            found.append(
                PostTraining("dynamic int8 LSTM, static int8", static=_CORE, dynamic=("LSTM",))
            )
    return tuple(found)


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # ships no stubs
    """Hands the calibrator a few rows at a time."""

    def __init__(self, feeds: Mapping[str, Array], batch: int | None) -> None:
        self._batches = _batches(feeds, batch)

    def get_next(self) -> dict[str, Array] | None:
        return next(self._batches, None)


def _batches(feeds: Mapping[str, Array], batch: int | None) -> Iterator[dict[str, Array]]:
    n = len(next(iter(feeds.values())))
    step = batch or CALIBRATION_BATCH
    for start in range(0, n, step):
        indices = np.arange(start, start + step if batch else min(start + step, n)) % n
        yield {name: array[indices] for name, array in feeds.items()}


def _has_default_layout(model: onnx.ModelProto) -> bool:
    """The quantizer drops the LSTM's ``layout`` attribute, so only the default may be taken."""
    return not any(
        attribute.name == "layout" and attribute.i
        for node in nodes(model.graph)
        if node.op_type == "LSTM"
        for attribute in node.attribute
    )


@contextmanager
def _quiet_quantizer() -> Iterator[None]:
    """The quantizer logs advice on the root logger; what matters here is what comes out."""
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
