"""Operators that move numbers without changing them."""

from __future__ import annotations

import onnx

from compress.model_file import attribute
from compress.onnx_import.geometry import pad_value, place_pads
from compress.onnx_import.graph import Graph, RefusalError, operand
from compress.onnx_import.piece import Handler, Piece, chain
from hlserve.nn.layers import Flatten, Pad, Reshape, Slice, Transpose


def handed_on(graph: Graph, tensor: str) -> Piece | None:
    """Operators that change nothing in prediction."""
    node = graph.made_by(tensor, "Identity", "Dropout", "Cast")
    if node is None or node.output[0] != tensor:
        return None
    before, after = graph.value(node.input[0]), graph.value(tensor)
    return Piece((node.input[0],)) if before.dtype == after.dtype else None


def reshape(graph: Graph, tensor: str) -> Piece | None:
    """Rows of another shape with the same numbers in the same order."""
    node = graph.made_by(tensor, "Reshape", "Flatten", "Squeeze", "Unsqueeze")
    if node is None:
        return None
    before, after = graph.shape(node.input[0]), graph.shape(tensor)
    if before == after:
        return Piece((node.input[0],))
    layer = Flatten() if len(after) == 1 else Reshape(_with_free_channels(before, after))
    return chain(tensor, [node.input[0]], layer)


def transpose(graph: Graph, tensor: str) -> Piece | None:
    """The axes of every row in another order."""
    node = graph.made_by(tensor, "Transpose")
    if node is None:
        return None
    n = len(graph.value(tensor).shape)
    order = tuple(attribute(node, "perm", range(n)[::-1]))
    if order[0] != 0:
        raise RefusalError(f"its order {order} takes the rows from the first axis")
    graph.shape(tensor)
    if order == tuple(range(n)):
        return Piece((node.input[0],))
    return chain(tensor, [node.input[0]], Transpose(tuple(axis - 1 for axis in order[1:])))


def part(graph: Graph, tensor: str) -> Piece | None:
    """A part of every row along one axis or several."""
    node = graph.made_by(tensor, "Slice", "Split")
    if node is None:
        return None
    steps = _split(graph, node, tensor) if node.op_type == "Split" else _sliced(graph, node)
    if any(axis < 1 for axis, _ in steps):
        raise RefusalError("it takes some of the rows")
    if any(span.step < 1 for _, span in steps):
        raise RefusalError("it turns an axis round")
    shape = graph.value(node.input[0]).shape
    parts = [
        Slice(span.start, span.stop, axis - 1, span.step)
        for axis, span in steps
        if span != range(shape[axis])
    ]
    return chain(tensor, [node.input[0]], *parts) if parts else Piece((node.input[0],))


def pad(graph: Graph, tensor: str) -> Piece | None:
    """Constants around every channel, where no layer behind takes them in."""
    node = graph.made_by(tensor, "Pad")
    if node is None:
        return None
    mode, value, pads = attribute(node, "mode", "constant"), pad_value(graph, node), None
    if mode == "constant" and value is not None:
        pads = place_pads(graph, node)
    if pads is None or value is None or min(pads) < 0:
        raise RefusalError("it pads otherwise than with one number around channels")
    return chain(tensor, [node.input[0]], Pad(tuple(pads), value))


HANDLERS: tuple[Handler, ...] = (handed_on, reshape, transpose, part, pad)


# ----- below


def _with_free_channels(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with -1 where channels stay an axis of their own, so that pruning may thin them.

    They come first, or last in what was turned to have them last.
    """
    if before[:1] == after[:1]:
        return (-1, *after[1:])
    if before[-1:] == after[-1:]:
        return (*after[:-1], -1)
    return after


def _sliced(graph: Graph, node: onnx.NodeProto) -> list[tuple[int, range]]:
    """Every axis, the rows' too, and the indices taken from it."""
    shape = graph.value(node.input[0]).shape
    told = [_ints(graph, node, i, name) for i, name in enumerate(("starts", "ends"), 1)]
    starts, ends = told
    if starts is None or ends is None:
        raise RefusalError("where it begins and ends is computed from the rows")
    axes = _ints(graph, node, 3, "axes") or list(range(len(starts)))
    steps = _ints(graph, node, 4, "steps") or [1] * len(starts)
    found = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = shape[axis]
        found.append((axis % len(shape), range(*slice(start, end, step).indices(size))))
    return found


def _split(graph: Graph, node: onnx.NodeProto, tensor: str) -> list[tuple[int, range]]:
    shape = graph.value(node.input[0]).shape
    axis = attribute(node, "axis", 0) % len(shape)
    start = 0
    for name in node.output:
        stop = start + graph.value(name).shape[axis]
        if name == tensor:
            break
        start = stop
    return [(axis, range(start, stop))]


def _ints(graph: Graph, node: onnx.NodeProto, i: int, name: str) -> list[int] | None:
    """An input since opset 10, an attribute before."""
    given = operand(node, i)
    if not given:
        told = attribute(node, name, None)
        return None if told is None else list(told)
    value = graph.fixed(given)
    if value is None:
        raise RefusalError(f"its {name} are computed from the rows")
    return [int(n) for n in value.reshape(-1)]
