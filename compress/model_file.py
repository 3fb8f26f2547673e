"""ONNX files from elsewhere: read with suspicion, and described."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import helper
from onnx.external_data_helper import load_external_data_for_tensor

from compress.integrity import (
    graphs,
    require_sound_graph,
    require_sound_tensors,
    require_text,
    size_bytes,
    tensors,
)
from compress.session import Session
from hlserve.errors import ModelFileError

MAX_BYTES = 2**31 - 1  # what one protobuf message can hold; weights beyond stay out of reach

# Operators by what they do with integers; ONNX Runtime's own among them.
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
INTEGER_LAYERS = (  # with weights
    *("QGemm", "QLinearConv", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat"),
    *("ConvInteger", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention"),
)
BLOCK_WEIGHTS = ("MatMulNBits", "GatherBlockQuantized")  # integers that are read as floats
INTEGER_NEIGHBOURS = (  # what computes with integers between layers
    *("QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearSigmoid", "QLinearLeakyRelu"),
    *("QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearSoftmax", "QLinearReduceMean"),
    *("QLinearWhere",),
)
_QUANTIZED_OPERATORS = frozenset(
    (*QUANTIZERS, *INTEGER_LAYERS, *INTEGER_NEIGHBOURS, *BLOCK_WEIGHTS)
)


def read_onnx(path: Path) -> onnx.ModelProto:
    """The model with all its weights inside; it is known to load in ONNX Runtime.

    Raises:
        ModelFileError: it cannot be read, is cut off, is no ONNX model, names weights outside
            its folder, does not hold together, or does not load.
    """
    content = _content(path)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ModelFileError(
            f"{path}: not a whole ONNX file ({len(content):,} bytes); was it cut off?"
        ) from error
    require_text(path, model)
    if not model.graph.output or not model.opset_import:
        raise ModelFileError(f"{path}: not an ONNX model: it has no graph with outputs")
    require_sound_tensors(path, model)
    _take_in_external_data(path, model)
    require_sound_graph(path, model)
    Session(model.SerializeToString(), name=str(path))
    return model


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every operator, those inside If, Loop and Scan too."""
    for inner in graphs(graph):
        yield from inner.node


def has_subgraphs(model: onnx.ModelProto) -> bool:
    """Whether there is control flow (If, Loop, Scan)."""
    return any(a.HasField("g") or a.graphs for n in model.graph.node for a in n.attribute)


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether the graph holds integer arithmetic already."""
    inside = [node for function in model.functions for node in function.node]
    return any(n.op_type in _QUANTIZED_OPERATORS for n in [*nodes(model.graph), *inside])


def parameter_count(model: onnx.ModelProto) -> int:
    """How many numbers the weights hold; scales, zero points and shapes among them."""
    return sum(prod(tensor.dims) for tensor in tensors(model))


def weight_formats(model: bytes) -> dict[str, str]:
    """What the numbers of each weight of a file are, such as ``float32`` or ``int8``, by name."""
    read = onnx.load_model_from_string(model)
    names = {tensor.name: tensor.data_type for tensor in tensors(read)}
    return {name: helper.tensor_dtype_to_np_dtype(kind).name for name, kind in names.items()}


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """An attribute's value; text as str."""
    for entry in node.attribute:
        if entry.name == name:
            value = helper.get_attribute_value(entry)
            return value.decode() if isinstance(value, bytes) else value
    return default


def opset(model: onnx.ModelProto) -> int:
    """The version of the standard operators."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


# ----- below


def _content(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise ModelFileError(f"{path} cannot be read: it is no file; name the .onnx file itself")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ModelFileError(f"{path}: {size:,} bytes; more than 2 GB do not fit into one file")
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}") from error


def _take_in_external_data(path: Path, model: onnx.ModelProto) -> None:
    outside = [t for t in tensors(model) if t.data_location == onnx.TensorProto.EXTERNAL]
    if sum(map(size_bytes, outside)) > MAX_BYTES:
        raise ModelFileError(f"{path}: more than 2 GB of weights do not fit into one file")
    for tensor in outside:
        _require_inside(path, tensor)
        try:
            load_external_data_for_tensor(tensor, str(path.parent))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            raise ModelFileError(f"{path}: external weights cannot be read: {error}") from error
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    if outside:
        require_sound_tensors(path, model)
    if model.ByteSize() > MAX_BYTES:
        raise ModelFileError(f"{path}: more than 2 GB of weights do not fit into one file")


def _require_inside(path: Path, tensor: onnx.TensorProto) -> None:
    """The content is a regular file in the model's folder that holds just what the shape says."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    where = f"{path}: weight {tensor.name!r}"
    folder = path.parent.resolve()
    try:
        target = (folder / location).resolve()  # follows links
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"{where} points to {location!r}, which is no path") from error
    if not location or not target.is_relative_to(folder) or target == folder:
        raise ModelFileError(f"{where} points to {location!r}, outside the model's folder; refused")
    if not target.is_file():
        raise ModelFileError(f"{where} is in {location!r}, which is missing")
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", target.stat().st_size - offset))
    except ValueError as error:
        raise ModelFileError(f"{where}: offset or length is no number") from error
    wanted = size_bytes(tensor)
    if offset < 0 or length != wanted or offset + length > target.stat().st_size:
        raise ModelFileError(
            f"{where} of shape {list(tensor.dims)} should hold {wanted:,} bytes; {location!r} has "
            f"{target.stat().st_size:,}, and {length:,} from {offset:,} on are asked for"
        )
