"""Masks of steps: which input says what is padding."""

from __future__ import annotations

import numpy as np
import onnx

from compress.onnx_import.graph import Graph, RefusalError
from compress.onnx_import.piece import Handler, Piece, chain
from hlserve.nn.layers import PaddingMask
from hlserve.nn.param import Array

_MASK = "PaddingMask"  # an imagined operator
_WITHIN = frozenset(
    {
        *("Cast", "CastLike", "Not", "Equal", "Where", "Sub", "Mul", "Add", "Neg", "Greater"),
        *("Less", "And", "Or", "Unsqueeze", "Squeeze", "Reshape", "Expand", "Transpose", "Tile"),
        *("Identity", "GreaterOrEqual", "LessOrEqual"),
    }
)


def padding(graph: Graph, tensor: str) -> Piece | None:
    """The layer for a mask that was found."""
    node = graph.made_by(tensor, _MASK)
    if node is None:
        return None
    padding_id = int(graph.value(node.input[1]))
    return chain(tensor, [node.input[0]], PaddingMask(padding_id, is_prefix=False))


HANDLERS: tuple[Handler, ...] = (padding,)


def step_mask(graph: Graph, tensor: str, is_step: Array) -> str:
    """The name of an int64 mask (rows, time) that says the same as a tensor made of it.

    Args:
        graph: the model.
        tensor: a mask in any form.
        is_step: what it says for the rows that were run, (rows, time); true for steps.

    Raises:
        RefusalError: it depends on more than the ids of one input, or on a 0/1 input.
    """
    roots, ids = _roots(graph, tensor)
    if len(roots) != 1:
        raise RefusalError(f"a mask that is made of {sorted(roots)}, expected one tensor of ids")
    (root,) = roots
    value = graph.value(root)
    if value.dtype != np.int64 or value.shape != is_step.shape:
        raise RefusalError(
            f"a mask that is made of {root!r}, {value.dtype} of shape {value.shape}; expected "
            f"int64 of shape {is_step.shape}"
        )
    if np.array_equal(value, is_step):
        return root
    for padding_id in sorted(ids):
        if np.array_equal(value != padding_id, is_step):
            return _imagined(graph, root, padding_id)
    raise RefusalError(f"a mask of {root!r} that is not made of one id of padding")


# ----- below


def _roots(graph: Graph, tensor: str) -> tuple[set[str], set[int]]:
    """The tensors that a mask is made of number by number, and the ids they are compared to."""
    roots, ids, ahead = set[str](), set[int](), [tensor]
    while ahead:
        name = ahead.pop()
        if not graph.holds_numbers(name):
            continue
        node = graph.made_by(name, *_WITHIN)
        if node is None:
            roots.add(name)
            continue
        if node.op_type == "Equal":
            ids.update(int(n) for n in map(graph.number, node.input) if n is not None)
        ahead.extend(node.input)
    return roots, ids


def _imagined(graph: Graph, root: str, padding_id: int) -> str:
    name = f"{root}\nwithout {padding_id}"
    if not graph.knows(name):
        constant = f"{name}\nid"
        graph.imagine_fixed(constant, np.array(padding_id, np.int64))
        node = onnx.NodeProto(op_type=_MASK, name=root, input=[root, constant], output=[name])
        graph.imagine(node, (graph.value(root) != padding_id).astype(np.int64))
    return name
