"""Where the numbers of a tensor come from, behind operators that only move them.

Exporters spell a change of axes in many ways. What counts is which number ends where, and that
is found by letting the operators move the numbers' places instead of the numbers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from compress.model_file import attribute
from compress.onnx_import.graph import Graph
from hlserve.nn.param import Array

REARRANGED = "Rearranged"  # an imagined operator: the source's numbers, and their places

_MOVES = frozenset(
    {
        *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather", "Split"),
        *("Identity", "Dropout", "Expand", "Tile", REARRANGED),
    }
)
_MOST_AXES_JOINED = 3  # Concat is followed in sequences, not in images
_SOURCE = 2**40  # places of the second source and those behind it begin at multiples of this


@dataclass(frozen=True, slots=True)
class Origin:
    """A tensor that is computed, and the places its numbers went to.

    Attributes:
        source: made by an operator that does more than to move numbers, or an input.
        places: of the shape asked about; int64, each the place in the flattened source.
    """

    source: str
    places: Array


def origin(graph: Graph, tensor: str) -> Origin | None:
    """Where all numbers of a tensor come from; None where that is more than one tensor."""
    if not moves(graph, tensor):
        return Origin(tensor, in_order(graph.value(tensor).shape))
    sources: list[str] = []
    places = _followed(graph, tensor, sources)
    used = np.unique(places // _SOURCE)
    return Origin(sources[int(used[0])], places % _SOURCE) if len(used) == 1 else None


def moves(graph: Graph, tensor: str) -> bool:
    """Whether the operator behind a tensor only moves numbers."""
    node = graph.producer(tensor)
    if node is None or not graph.holds_numbers(tensor) or node.output[0] != tensor:
        return node is not None and node.op_type == "Split" and graph.holds_numbers(tensor)
    if node.op_type == "Concat":
        return len(graph.value(tensor).shape) <= _MOST_AXES_JOINED
    if node.op_type == "Cast":
        return bool(graph.value(tensor).dtype == graph.value(node.input[0]).dtype)
    return (
        node.op_type in _MOVES
        and graph.holds_numbers(node.input[0])
        and not any(graph.holds_numbers(name) for name in node.input[1:])
    )


def in_order(shape: tuple[int, ...]) -> Array:
    """The places of a tensor that nothing has moved."""
    return np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)


def arranged(graph: Graph, tensor: str, places: Array) -> str:
    """The name of a tensor that holds a tensor's numbers in these places.

    It is one of the model's where there is one. Else it is imagined, and as far ahead as the
    operators allow, so that what works on every step alike is found with rows first.
    """
    found = origin(graph, tensor)
    source = tensor if found is None else found.source
    places = places if found is None else found.places.reshape(-1)[places]
    shape = graph.value(source).shape
    if places.shape == shape and np.array_equal(places, in_order(shape)):
        return source
    digest = hashlib.sha256(repr(places.shape).encode() + places.tobytes()).hexdigest()[:16]
    name = f"{source}\n{digest}"
    if not graph.knows(name):
        node = _pulled_through(graph, source, places, name)
        graph.imagine(
            node or _rearranged(graph, source, places, name),
            graph.value(source).reshape(-1)[places],
        )
    return name


def keeps_rows(graph: Graph, source: str, places: Array) -> bool:
    """Whether every row is made of the numbers of the same row of a source."""
    shape = graph.value(source).shape
    if not shape or shape[0] != graph.n or not places.ndim or len(places) != graph.n:
        return False
    rows = places.reshape(graph.n, -1) // int(np.prod(shape[1:]))
    return bool((rows == np.arange(graph.n)[:, None]).all())


def whole_steps(places: Array, features: int) -> Array | None:
    """Which step of a source (..., features) each step is; None where steps are torn apart."""
    if not places.ndim or places.shape[-1] != features:
        return None
    steps = places[..., 0] // features
    is_whole = places == steps[..., None] * features + np.arange(features)
    return steps if is_whole.all() else None


def of_steps(steps: Array, features: int) -> Array:
    """The places of these steps of a source (..., features)."""
    return steps[..., None] * features + np.arange(features)


# ----- below


def _followed(graph: Graph, tensor: str, sources: list[str]) -> Array:
    if not moves(graph, tensor):
        if tensor not in sources:
            sources.append(tensor)
        return in_order(graph.value(tensor).shape) + _SOURCE * sources.index(tensor)
    node = graph.producer(tensor)
    assert node is not None  # moves
    if node.op_type == "Concat":
        parts = [_followed(graph, name, sources) for name in node.input]
        return np.concatenate(parts, axis=attribute(node, "axis", 0))
    before = _followed(graph, node.input[0], sources)
    if node.op_type == REARRANGED:
        moved: Array = before.reshape(-1)[graph.value(node.input[1])]
        return moved
    if node.op_type in ("Identity", "Dropout", "Cast"):
        return before
    fed: dict[str, Any] = {name: graph.value(name) for name in node.input[1:] if name}
    outputs: Any = ReferenceEvaluator(node).run(None, fed | {node.input[0]: before})
    return np.asarray(outputs[list(node.output).index(tensor)])


def _rearranged(graph: Graph, source: str, places: Array, name: str) -> onnx.NodeProto:
    made = graph.producer(source)
    graph.imagine_fixed(f"{name}\nplaces", places)
    return onnx.NodeProto(
        op_type=REARRANGED,
        name=source if made is None else made.name,
        input=[source, f"{name}\nplaces"],
        output=[name],
    )


# ----- through operators that work on every step alike

_ALONE = frozenset(
    {
        *("Relu", "LeakyRelu", "Elu", "Gelu", "HardSwish", "HardSigmoid", "Sigmoid", "Softplus"),
        *("Tanh", "Erf", "Sqrt", "Neg", "Exp", "Log", "Abs", "Clip", "Reciprocal", "Selu"),
    }
)
_TOGETHER = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Min", "Max"})
_SEQUENCE_AXES = 3
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


def _pulled_through(graph: Graph, source: str, places: Array, name: str) -> onnx.NodeProto | None:
    """The operator behind a source, on inputs that are arranged; None where it must stay."""
    node = graph.producer(source)
    if node is None or not _is_worth_it(graph, source, places):
        return None
    if node.op_type in _ALONE:
        return _renamed(node, [arranged(graph, node.input[0], places), *node.input[1:]], name)
    if node.op_type in _TOGETHER:
        inputs = [_spread(graph, given, source, places, name) for given in node.input]
        return _renamed(node, inputs, name)
    return _step_by_step(graph, node, source, places, name)


def _is_worth_it(graph: Graph, source: str, places: Array) -> bool:
    """Rows are not first; or only some steps behind a recurrent layer are looked at."""
    if not keeps_rows(graph, source, places):
        return True
    return places.size < graph.value(source).size and _follows_recurrence(graph, source)


def _follows_recurrence(graph: Graph, tensor: str) -> bool:
    while True:
        found = origin(graph, tensor)
        node = None if found is None else graph.producer(found.source)
        if node is None or node.op_type in _RECURRENT:
            return node is not None
        inputs = [name for name in node.input if graph.holds_numbers(name)]
        if len(inputs) != 1 or len(graph.value(inputs[0]).shape) != _SEQUENCE_AXES:
            return False
        tensor = inputs[0]


def _step_by_step(
    graph: Graph, node: onnx.NodeProto, source: str, places: Array, name: str
) -> onnx.NodeProto | None:
    features = graph.value(source).shape[-1]
    steps = whole_steps(places, features)
    if steps is not None and _is_lookup(graph, node):
        return _renamed(node, [node.input[0], arranged(graph, node.input[1], steps)], name)
    if not _works_on_steps(graph, node):
        return None
    if steps is None:
        return _flattened(graph, source, places, name)
    fed = arranged(graph, node.input[0], of_steps(steps, graph.value(node.input[0]).shape[-1]))
    made = _renamed(node, [fed, *node.input[1:]], name)
    for entry in made.attribute:
        if entry.name == "axis":
            entry.i = -1
    return made


def _flattened(graph: Graph, source: str, places: Array, name: str) -> onnx.NodeProto | None:
    """Whole steps of every row that were put into another shape."""
    features = graph.value(source).shape[-1]
    if len(places) != graph.n or places.size % (graph.n * features):
        return None
    by_step = places.reshape(graph.n, -1, features)
    if by_step.shape == places.shape or whole_steps(by_step, features) is None:
        return None
    inner = arranged(graph, source, by_step)
    return _rearranged(graph, inner, in_order(by_step.shape).reshape(places.shape), name)


def _is_lookup(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether it looks vectors up in a fixed table."""
    if node.op_type != "Gather" or attribute(node, "axis", 0):
        return False
    table = graph.fixed(node.input[0])
    return table is not None and table.ndim == 2


def _works_on_steps(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether it does the same to the features of every step."""
    match node.op_type:
        case "MatMul" | "Gemm":
            weight = graph.fixed(node.input[1])
            return weight is not None and weight.ndim == 2 and not attribute(node, "transA", 0)
        case "LayerNormalization" | "Softmax" | "LogSoftmax":
            last = len(graph.value(node.input[0]).shape) - 1
            return attribute(node, "axis", -1) in (-1, last)
    return False


def _spread(graph: Graph, given: str, source: str, places: Array, name: str) -> str:
    """An operand of an operator whose output is rearranged, as that needs it."""
    shape, value = graph.value(source).shape, graph.value(given)
    spread = np.broadcast_to(in_order(value.shape), shape).reshape(-1)[places]
    if graph.holds_numbers(given):
        return arranged(graph, given, spread)
    if value.size == 1:
        return given
    constant = value.reshape(-1)[spread]
    while constant.ndim > 1 and (constant == constant[:1]).all():
        constant = constant[0]
    new = f"{name}\n{given}"
    graph.imagine_fixed(new, constant)
    return new


def _renamed(node: onnx.NodeProto, inputs: list[str], name: str) -> onnx.NodeProto:
    made = onnx.NodeProto()
    made.CopyFrom(node)
    made.input[:] = inputs
    made.output[:] = [name]
    return made
