"""A graph spelled as ONNX Runtime's quantizer takes it, in its bodies too.

The quantizer finds layers by name, weights among the initializers alone, and takes a Gemm for its
integer product only where the factors are 1. What does not fit it leaves as it is without a word,
so the spelling is changed first; the numbers stay.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from compress.integrity import graphs
from compress.model_file import attribute
from hlserve.nn.param import Array


def ready(model: onnx.ModelProto, *, gemm_as_matmul: bool = False) -> onnx.ModelProto:
    """A copy with named nodes, weights as initializers, and Gemms that the quantizer takes.

    Args:
        model: stays as it is.
        gemm_as_matmul: spells a Gemm with constant weights as MatMul and Add, the only form that
            is quantized dynamically.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    taken = taken_names(copy.graph)
    for graph in graphs(copy.graph):
        _lift_constants(graph)
        _rename(graph)
        if gemm_as_matmul:
            _spell_gemms(graph, taken)
    return copy


def weights(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The initializers that no caller can replace, by name."""
    free = {entry.name for entry in graph.input}
    return {tensor.name: tensor for tensor in graph.initializer if tensor.name not in free}


def taken_names(graph: onnx.GraphProto) -> set[str]:
    """Of all values and weights, in bodies too."""
    found = {name for inner in graphs(graph) for node in inner.node for name in node.output}
    found |= {tensor.name for inner in graphs(graph) for tensor in inner.initializer}
    return found | {entry.name for inner in graphs(graph) for entry in inner.input}


def free_name(name: str, taken: set[str]) -> str:
    """The name, or one like it that nothing has; it is added to those taken."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def drop_unread(graph: onnx.GraphProto) -> None:
    """Weights that a new spelling has left without a reader, here or in a body."""
    read = {name for inner in graphs(graph) for node in inner.node for name in node.input}
    read |= {entry.name for inner in graphs(graph) for entry in inner.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def set_nodes(graph: onnx.GraphProto, changed: list[onnx.NodeProto]) -> None:
    """Puts these in place of all nodes; they may be some of them."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in changed]
    del graph.node[:]
    graph.node.extend(copies)


# ----- below


def _lift_constants(graph: onnx.GraphProto) -> None:
    kept = []
    for node in graph.node:
        tensor = _tensor_of(node)
        if tensor is None:
            kept.append(node)
            continue
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
    set_nodes(graph, kept)


def _tensor_of(node: onnx.NodeProto) -> onnx.TensorProto | None:
    if (
        node.op_type != "Constant"
        or len(node.attribute) != 1
        or not node.attribute[0].HasField("t")
    ):
        return None
    tensor = onnx.TensorProto()
    tensor.CopyFrom(node.attribute[0].t)
    return tensor


def _rename(graph: onnx.GraphProto) -> None:
    seen: set[str] = set()
    for number, node in enumerate(graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{number}_{node.output[0]}"
        seen.add(node.name)


def _spell_gemms(graph: onnx.GraphProto, taken: set[str]) -> None:
    found = weights(graph)
    spelled: list[onnx.NodeProto] = []
    for node in graph.node:
        is_plain = node.op_type == "Gemm" and node.input[1] in found
        if not is_plain or attribute(node, "transA", 0):
            spelled.append(node)
            continue
        w = numpy_helper.to_array(found[node.input[1]])
        w = w.T if attribute(node, "transB", 0) else w
        weight = _added(graph, w * _factor(node, "alpha", w), f"{node.output[0]}_weight", taken)
        bias = _bias(graph, node, found, taken)
        product = free_name(f"{node.output[0]}_product", taken) if bias else node.output[0]
        spelled.append(helper.make_node("MatMul", [node.input[0], weight], [product], node.name))
        if bias:
            name = f"{node.name}_bias"
            spelled.append(helper.make_node("Add", [product, bias], [node.output[0]], name))
    set_nodes(graph, spelled)
    drop_unread(graph)


def _bias(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    found: dict[str, onnx.TensorProto],
    taken: set[str],
) -> str:
    """The name of what is added; empty where there is none."""
    if len(node.input) < 3 or not node.input[2]:
        return ""
    if attribute(node, "beta", 1.0) == 1.0 or node.input[2] not in found:
        return str(node.input[2])
    values = numpy_helper.to_array(found[node.input[2]])
    return _added(graph, values * _factor(node, "beta", values), f"{node.output[0]}_bias", taken)


def _factor(node: onnx.NodeProto, name: str, like: Array) -> Array:
    return np.asarray(attribute(node, name, 1.0), like.dtype)


def _added(graph: onnx.GraphProto, values: Array, name: str, taken: set[str]) -> str:
    free = free_name(name, taken)
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), free))
    return free
