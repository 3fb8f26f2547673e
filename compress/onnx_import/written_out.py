"""Functions number by number that an exporter writes in several operators.

Spellings are many: a GELU may be halved first or last, a swish may divide or multiply. So the
operators are not compared but run: whatever stands between a tensor and the one number it is a
function of is evaluated on a grid, and known functions are looked through for one that gives
the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from compress.export import IR_VERSION
from compress.onnx_import.graph import Graph
from compress.onnx_import.piece import Handler, Piece, chain
from compress.session import Session
from hlserve.errors import DataError, ModelFileError
from hlserve.nn.layer import Layer
from hlserve.nn.layers import GELU, HardSigmoid, HardSwish, SiLU, Softplus
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace

_ENDS = (
    "Add",
    "Clip",
    "Div",
    "Log",
    "Min",
    "Mul",
    "Where",
)  # what such functions are written to end with
_WITHIN = (
    *(*_ENDS, "Erf", "Exp", "Greater", "GreaterOrEqual", "HardSigmoid", "Identity", "Less"),
    *("LessOrEqual", "Max", "Neg", "Pow", "Reciprocal", "Relu", "Sigmoid", "Softplus", "Sqrt"),
    *("Sub", "Tanh"),
)
_MOST_NODES = 12  # the longest, GELU by tanh, takes 9

_FAR = (-64.0, -16.0, 16.0, 64.0)  # where a limit would show; exp is finite there
_GRID = np.concatenate([np.linspace(-8, 8, 129), np.linspace(-0.1, 0.1, 21), _FAR])
_GRID = _GRID.astype(np.float32)
# float32 operators in another order differ by some 1e-6 here, the two forms of GELU by 5e-4.
_RTOL, _ATOL = 1e-5, 1e-5


def known_function(graph: Graph, tensor: str) -> Piece | None:
    """One layer for several operators that make a known function together."""
    if graph.made_by(tensor, *_ENDS) is None:
        return None
    for source, nodes in _cones(graph, tensor):
        if len(nodes) == 1 or graph.value(source).dtype != np.float32:
            continue
        answers = _on_grid(graph, nodes, source, tensor)
        layer = None if answers is None else _same(answers)
        if layer is not None:
            return chain(tensor, [source], layer)
    return None


HANDLERS: tuple[Handler, ...] = (known_function,)


# ----- below


def _cones(graph: Graph, tensor: str) -> Iterator[tuple[str, list[onnx.NodeProto]]]:
    """Every tensor that this one is a function of alone, and the operators between, in order."""
    open_tensors, nodes = {tensor}, list[onnx.NodeProto]()
    while len(nodes) < _MOST_NODES:
        last = max(open_tensors, key=graph.position)
        node = graph.made_by(last, *_WITHIN)
        if node is None or not _is_by_number(graph, node):
            return
        nodes.insert(0, node)
        open_tensors.remove(last)
        open_tensors.update(graph.data_inputs(node))
        if len(open_tensors) == 1:
            yield next(iter(open_tensors)), nodes


def _is_by_number(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether it reads activations of one shape, and single numbers beside them."""
    flowing = graph.data_inputs(node)
    shapes = {graph.value(name).shape for name in (*flowing, node.output[0])}
    constants = [name for name in node.input if name and name not in flowing]
    return len(shapes) == 1 and all(graph.number(name) is not None for name in constants)


def _on_grid(graph: Graph, nodes: list[onnx.NodeProto], source: str, tensor: str) -> Array | None:
    """What the operators make of the grid; None where they cannot run by themselves."""
    made = {name for node in nodes for name in node.output}
    read = {name for node in nodes for name in node.input if name} - made - {source}
    numbers = {name: np.array(graph.number(name), graph.value(name).dtype) for name in read}
    constants = [numpy_helper.from_array(value, name) for name, value in numbers.items()]
    x, y = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None])
        for name in (source, tensor)
    )
    model = helper.make_model(
        helper.make_graph(nodes, "function", [x], [y], constants),
        opset_imports=[helper.make_opsetid("", graph.opset)],
        ir_version=IR_VERSION,
    )
    try:
        return Session(model.SerializeToString(), name="function").run({source: _GRID})[tensor]
    except (ModelFileError, DataError):
        return None


def _same(answers: Array) -> Layer | None:
    for layer in (GELU(), GELU("tanh"), SiLU(), HardSwish(), HardSigmoid(), Softplus()):
        known, _ = layer.forward(_GRID[None], training=False, workspace=Workspace())
        if np.allclose(answers, known[0], rtol=_RTOL, atol=_ATOL):
            return layer
    return None
