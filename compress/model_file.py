"""ONNX files from elsewhere: read with suspicion, and described."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from compress.session import Session
from hlserve.errors import ModelFileError

MAX_BYTES = 2**31 - 1  # what one protobuf message can hold; weights beyond stay out of reach

_QUANTIZED_OPERATORS = frozenset(
    {
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
        *("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QLinearAdd", "QGemm"),
        *("DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulIntegerToFloat", "QAttention"),
        *("MatMulNBits", "GatherBlockQuantized"),
    }
)


def read_onnx(path: Path) -> onnx.ModelProto:
    """The model with all its weights inside; it is known to load in ONNX Runtime.

    Raises:
        ModelFileError: it cannot be read, is cut off, is no ONNX model, names weights outside
            its folder, or does not load.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}") from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ModelFileError(
            f"{path}: not a whole ONNX file ({len(content):,} bytes); was it cut off?"
        ) from error
    if not model.graph.output or not model.opset_import:
        raise ModelFileError(f"{path}: not an ONNX model: it has no graph with outputs")
    _take_in_external_data(path, model)
    Session(model.SerializeToString(), name=str(path))
    return model


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every operator, those inside If, Loop and Scan too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes(inner)


def has_subgraphs(model: onnx.ModelProto) -> bool:
    """Whether there is control flow (If, Loop, Scan)."""
    return any(a.HasField("g") or a.graphs for n in model.graph.node for a in n.attribute)


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether the graph holds integer arithmetic already."""
    inside = [node for function in model.functions for node in function.node]
    return any(n.op_type in _QUANTIZED_OPERATORS for n in [*nodes(model.graph), *inside])


def parameter_count(model: onnx.ModelProto) -> int:
    """How many numbers the weights hold; scales, zero points and shapes among them."""
    return sum(_element_count(tensor) for tensor in _tensors(model.graph))


def opset(model: onnx.ModelProto) -> int:
    """The version of the standard operators."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


# ----- below


def _take_in_external_data(path: Path, model: onnx.ModelProto) -> None:
    outside = [t for t in _tensors(model.graph) if t.data_location == onnx.TensorProto.EXTERNAL]
    for tensor in outside:
        _require_inside(path, tensor)
    if not outside:
        return
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelFileError(f"{path}: external weights cannot be read: {error}") from error
    if model.ByteSize() > MAX_BYTES:
        raise ModelFileError(f"{path}: more than 2 GB of weights do not fit into one file")


def _require_inside(path: Path, tensor: onnx.TensorProto) -> None:
    location = next((e.value for e in tensor.external_data if e.key == "location"), "")
    folder = path.parent.resolve()
    target = (folder / location).resolve()  # follows links
    if not location or not target.is_relative_to(folder) or target == folder:
        raise ModelFileError(
            f"{path}: weight {tensor.name!r} points to {location!r}, outside the model's folder; "
            "refused"
        )
    if not target.is_file():
        raise ModelFileError(f"{path}: weight {tensor.name!r} is in {location!r}, which is missing")


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in nodes(graph):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from inner.initializer


def _element_count(tensor: onnx.TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count
