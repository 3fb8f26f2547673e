"""Post-training int8 of any ONNX file, by ONNX Runtime's own quantizer, where that can pay.

Unsigned activations and signed weights, whole islands only (see ``islands``). Recurrent layers
have an integer form only with dynamic quantization, GRU and RNN none at all; convolutions are
never quantized dynamically, which is slow or does not load. Static integers leave the bodies of
If, Loop and Scan alone, since calibration does not see into them; dynamic ones reach inside.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import onnx
from onnxruntime.quantization import (  # type: ignore[import-untyped]  # ships no stubs
    QuantType,
    quantize_dynamic,
)
from onnxruntime.quantization.calibrate import (  # type: ignore[import-untyped]
    CalibrationMethod,
    TensorsData,
)
from onnxruntime.quantization.qdq_quantizer import (  # type: ignore[import-untyped]
    QDQQuantizer,
)

from compress.graph_step import GraphStep
from compress.integrity import graphs
from compress.model_file import nodes, opset
from compress.quantization.calibration import histograms
from compress.quantization.graph_form import ready, weights
from compress.quantization.histogram import Histogram
from compress.quantization.islands import LAYERS, NEIGHBOURS, Layers, select
from compress.quantization.observer import Observer, Range, value_range
from compress.session import RUNTIME_ERRORS
from hlserve.errors import CompressionError, DataError, ModelFileError
from hlserve.nn.param import Array

PER_CHANNEL_OPSET = 13
PERCENTILE = 99.99

_DYNAMIC = ("Gemm", "LSTM", "MatMul")
_INTEGER_OPERATORS = ("DequantizeLinear", "DynamicQuantizeLSTM", "MatMulInteger")

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
    DataError,
    ModelFileError,
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
        layers: ``wide`` leaves narrow and depthwise layers in floats, see ``islands``.
        percentile: share of an activation's values that its range holds.
        observer: ``percentile``, of which 100 is all that was seen, or ``mse``, the range of
            least squared error.
    """

    name: str
    static: tuple[str, ...] = ()
    dynamic: tuple[str, ...] = ()
    per_channel: bool = False
    layers: Layers = "all"
    percentile: float = 100.0
    observer: Observer = "percentile"

    def apply(
        self, model: onnx.ModelProto, feeds: Mapping[str, Array], *, batch: int | None = None
    ) -> onnx.ModelProto:
        """The quantized model; that it loads and runs is for the caller to see.

        Args:
            model: stays as it is.
            feeds: rows to calibrate on.
            batch: rows a run, where the model takes only one number of them.

        Raises:
            CompressionError: the quantizer cannot take this graph, or finds nothing to quantize.
        """
        current = ready(model, gemm_as_matmul=bool(self.dynamic))
        with _quiet_quantizer():
            try:
                if self.dynamic:
                    current = ready(self._quantize_dynamic(current))
                if self.static:
                    current = self._quantize_static(current, feeds, batch)
            except _QUANTIZER_ERRORS as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
                raise CompressionError(f"ONNX Runtime's quantizer fails: {reason}") from error
        if not any(node.op_type in _INTEGER_OPERATORS for node in nodes(current.graph)):
            raise CompressionError(
                f"{self.name}: no {' or '.join((*self.static, *self.dynamic))} with constant "
                "weights is there to quantize"
            )
        return current

    def histograms(
        self, model: onnx.ModelProto, feeds: Mapping[str, Array], *, batch: int | None = None
    ) -> dict[str, Histogram]:
        """What ``apply`` sees of the activations beside the operators that it makes static."""
        form = ready(model, gemm_as_matmul=bool(self.dynamic))
        chosen = select(form, self.static, self.layers)
        return histograms(form, _values(chosen), feeds, batch=batch) if chosen else {}

    # ----- below

    def _quantize_static(
        self, model: onnx.ModelProto, feeds: Mapping[str, Array], batch: int | None
    ) -> onnx.ModelProto:
        chosen = select(model, self.static, self.layers)
        if not chosen:
            return model
        seen = histograms(model, _values(chosen), feeds, batch=batch)
        found = {n: value_range(h, self.observer, self.percentile) for n, h in seen.items()}
        quantizer = QDQQuantizer(
            _with_shapes(model),
            self.per_channel,
            False,  # whether weights get 7 bits, which processors without VNNI need
            QuantType.QInt8,
            QuantType.QUInt8,
            _tensors_data(found),
            [node.name for node in chosen],
            [],
            list(self.static),
            {},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()  # as ONNX demands; ONNX Runtime takes any order
        result = _handing_floats(quantizer.model.model, model, {node.name for node in chosen})
        del result.metadata_props[:]
        result.metadata_props.extend(model.metadata_props)
        return result

    def _quantize_dynamic(self, model: onnx.ModelProto) -> onnx.ModelProto:
        with tempfile.TemporaryDirectory(prefix="hlserve-") as folder:
            source, target = Path(folder) / "source.onnx", Path(folder) / "target.onnx"
            onnx.save(model, source)
            quantize_dynamic(
                source,
                target,
                op_types_to_quantize=[kind for kind in self.dynamic if kind != "Gemm"]
                + ["MatMul"] * ("Gemm" in self.dynamic and "MatMul" not in self.dynamic),
                per_channel=self.per_channel,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=_batch_first_lstms(model),
                extra_options={
                    "EnableSubgraph": True,
                    "DefaultTensorType": onnx.TensorProto.FLOAT,
                    "MatMulConstBOnly": True,
                },
            )
            result = onnx.load(target)
        del result.metadata_props[:]
        result.metadata_props.extend(model.metadata_props)
        return result


# LSTM's integer form keeps int8 weights and measures its input and state in every step; GRU and
# RNN have none in ONNX Runtime.
DYNAMIC_LSTM = PostTraining("dynamic int8 LSTM", dynamic=("LSTM",))


def ways(model: onnx.ModelProto) -> tuple[PostTraining, ...]:
    """Those worth trying on this graph; the most promising first."""
    form = ready(model)
    dense = _dense_layers(form)
    has_lstm = any(node.op_type == "LSTM" for node in nodes(form.graph))
    split = opset(model) >= PER_CHANNEL_OPSET
    found: list[PostTraining] = []
    if select(form, LAYERS):
        found += _static_ways(form, split)
    if dense:
        dynamic = _DYNAMIC if has_lstm else ("Gemm", "MatMul")
        found.append(PostTraining("dynamic int8", dynamic=dynamic))
        found.append(PostTraining("dynamic int8 per channel", dynamic=dynamic, per_channel=True))
    if has_lstm:
        found.append(DYNAMIC_LSTM)
    if has_lstm and select(form, LAYERS):
        name = "dynamic int8 LSTM, static int8"
        found.append(PostTraining(name, LAYERS + NEIGHBOURS, ("LSTM",), per_channel=False))
    return tuple(found)


# ----- below


def _static_ways(form: onnx.ModelProto, split: bool) -> list[PostTraining]:
    islands = LAYERS + NEIGHBOURS
    every, layers = len(select(form, islands)), len(select(form, LAYERS))
    wide = len(select(form, islands, "wide"))
    found = [PostTraining("static int8", islands, per_channel=split)]
    if layers != every:
        found.append(PostTraining("static int8 of layers alone", LAYERS, per_channel=split))
    if 0 < wide < every:
        name = "static int8 of wide layers"
        found.append(PostTraining(name, islands, per_channel=split, layers="wide"))
    name = f"static int8, {PERCENTILE:g} % range"
    found.append(PostTraining(name, islands, per_channel=split, percentile=PERCENTILE))
    return found


def _dense_layers(form: onnx.ModelProto) -> bool:
    """Whether a MatMul or Gemm has constant weights, in the graph or in a body."""
    constant = {name for graph in graphs(form.graph) for name in weights(graph)}
    return any(
        node.op_type in ("Gemm", "MatMul") and node.input[1] in constant
        for node in nodes(form.graph)
    )


def _values(chosen: list[onnx.NodeProto]) -> list[str]:
    return list(dict.fromkeys(n for node in chosen for n in (*node.input, *node.output) if n))


def _tensors_data(found: Mapping[str, Range]) -> Any:
    pairs = {n: (np.float32(low), np.float32(high)) for n, (low, high) in found.items()}
    return TensorsData(CalibrationMethod.MinMax, pairs)


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The types of all values, which the quantizer looks up."""
    inferred = onnx.shape_inference.infer_shapes(model)
    del inferred.metadata_props[:]  # a mark of an earlier step would stand there twice
    entry = inferred.metadata_props.add()
    entry.key, entry.value = "onnx.infer", "onnxruntime.quant"
    return inferred


def _handing_floats(
    model: onnx.ModelProto, before: onnx.ModelProto, chosen: set[str]
) -> onnx.ModelProto:
    """Dense layers whose readers are all floats sum up in floats: one rounding less, and no cost.

    Args:
        model: quantized; changed.
        before: the same graph in floats, which tells what made a value: where the quantizer has
            taken a Relu into its layer, the rounding is the Relu and stays.
        chosen: names of the nodes in integers.
    """
    makers = {name: node for node in before.graph.node for name in node.output}
    now = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in list(model.graph.node):
        layer = now.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        if layer is None or layer.op_type not in ("Gemm", "MatMul"):
            continue
        back = readers.get(node.output[0], [])
        if len(back) != 1 or len(readers[node.input[0]]) != 1:
            continue
        value = back[0].output[0]
        maker = makers.get(value.removesuffix("_DequantizeLinear_Output"))
        is_own = maker is not None and maker.name == layer.name
        if is_own and not any(reader.name in chosen for reader in readers.get(value, [])):
            layer.output[0] = value
            model.graph.node.remove(node)
            model.graph.node.remove(back[0])
    return model


def _batch_first_lstms(model: onnx.ModelProto) -> list[str]:
    """The quantizer drops the LSTM's ``layout`` attribute, so only the default may be taken."""
    return [
        node.name
        for node in nodes(model.graph)
        if node.op_type == "LSTM" and any(a.name == "layout" and a.i for a in node.attribute)
    ]


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
