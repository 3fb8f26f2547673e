"""Multi-head self-attention that an exporter writes in some twenty operators.

What is looked for is softmax(scale q k^T + mask) v. Which head and which step each number of it
belongs to is told by the places it came from, whatever turned the axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx

from compress.model_file import attribute
from compress.onnx_import.dense import product
from compress.onnx_import.graph import Graph, RefusalError, operand
from compress.onnx_import.masks import step_mask
from compress.onnx_import.movement import arranged, in_order, of_steps, origin
from compress.onnx_import.piece import Handler, Piece, chain
from hlserve.nn.layers import MultiHeadAttention
from hlserve.nn.param import Array

MASKED = -1e3  # what is added to scores of keys that shall have no weight is below this


def self_attention(graph: Graph, tensor: str) -> Piece | None:
    """From the projection of what the heads found back to what all three projections read."""
    out = product(graph, tensor)
    found = None if out is None else origin(graph, out.x)
    mixing = None if found is None else _mixing(graph, found.source)
    if out is None or found is None or mixing is None:
        return None
    _require_sequence(graph, tensor, out.weight)
    heads = _heads(found.places, mixing, graph.value(found.source).shape)
    parts = [_projection(graph, side, heads) for side in (mixing.q, mixing.k, mixing.v)]
    if len({part.x for part in parts}) > 1:
        raise RefusalError("its queries, keys and values are not projected from the same steps")
    dim = out.weight.shape[0]
    if parts[0].weight.shape != (dim, dim) or out.weight.shape != (dim, dim):
        raise RefusalError(
            f"its projections are {parts[0].weight.shape} and {out.weight.shape}; the layer has "
            "as many features within as it takes"
        )
    in_scale = mixing.scale * math.sqrt(heads.head_dim)  # the layer divides by the root itself
    parts[0] = replace(parts[0], weight=parts[0].weight * in_scale, bias=parts[0].bias * in_scale)
    out_bias = np.zeros(dim) if out.bias is None else out.bias
    arrays = {
        "in_weight": np.concatenate([part.weight for part in parts]),
        "in_bias": np.concatenate([part.bias for part in parts]),
        "out_weight": out.weight[:, heads.columns],
        "out_bias": out_bias,
    }
    layer = MultiHeadAttention(dim, heads.which.shape[1]).with_arrays(
        {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    )
    mask = _mask(graph, mixing, heads)
    return chain(tensor, [parts[0].x, *([mask] if mask else [])], layer)


HANDLERS: tuple[Handler, ...] = (self_attention,)


# ----- below


@dataclass(frozen=True, slots=True)
class _Side:
    """Queries, keys or values: a tensor, and its places as (matrices, time, head_dim)."""

    tensor: str
    places: Array
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class _Mixing:
    """softmax(scale q k^T + mask) v, matrices of (time, head_dim).

    Attributes:
        form: the places of the result as (matrices, time, head_dim).
        masked: of every (matrix, query, key) whether it has no weight; None without a mask.
        mask: the tensor that says so.
    """

    q: _Side
    k: _Side
    v: _Side
    scale: float
    form: Array
    masked: Array | None = None
    mask: str = ""


@dataclass(frozen=True, slots=True)
class _Heads:
    """Which matrix belongs to a row and head, (rows, heads); and the order of their features."""

    which: Array
    columns: Array
    head_dim: int


@dataclass(frozen=True, slots=True)
class _Part:
    x: str
    weight: Array
    bias: Array


def _require_sequence(graph: Graph, tensor: str, weight: Array) -> None:
    shape = graph.shape(tensor)
    if len(shape) != 2 or shape[1] != len(weight):
        raise RefusalError(f"attention for rows of shape {shape}; expected (time, features)")


# ----- the formula


def _mixing(graph: Graph, tensor: str) -> _Mixing | None:
    node = graph.made_by(tensor, "MatMul", "Attention")
    if node is None:
        return None
    if node.op_type == "Attention":
        return _operator(graph, node, tensor)
    weights, values = node.input
    softmax = _softmax(graph, weights)
    if softmax is None or not graph.holds_numbers(values):
        return None
    if attribute(softmax, "axis", -1) not in (-1, len(graph.value(weights).shape) - 1):
        raise RefusalError("a softmax over another axis than the keys")
    return _scores(graph, softmax.input[0], values, tensor)


def _softmax(graph: Graph, tensor: str) -> onnx.NodeProto | None:
    """Behind what changes nothing, and behind zeros for rows without any keys."""
    source = _plain_source(graph, tensor)
    node = graph.made_by(source, "Where")
    if node is not None and graph.made_by(node.input[0], "IsNaN") is not None:
        source = _plain_source(graph, node.input[2])
    return graph.made_by(source, "Softmax")


def _plain_source(graph: Graph, tensor: str) -> str:
    """Behind operators that leave every number where it is."""
    found = origin(graph, tensor)
    if found is None or not np.array_equal(found.places, in_order(found.places.shape)):
        return tensor
    return found.source if graph.value(found.source).shape == found.places.shape else tensor


def _scores(graph: Graph, tensor: str, values: str, made: str) -> _Mixing | None:
    """Scores as q k^T behind a scale and a mask, in whichever order."""
    scale, mask, masked = 1.0, "", None
    while graph.made_by(tensor, "MatMul") is None:
        step = _scaled(graph, tensor)
        if step is not None:
            tensor, scale = step[0], scale * step[1]
            continue
        step_masked = _masked(graph, tensor)
        if step_masked is None or mask:
            raise RefusalError("its scores are more than products with a scale and a mask")
        tensor, mask, masked = step_masked
    node = graph.producer(tensor)
    assert node is not None  # the loop
    q, k = node.input
    form = _matrices(graph.value(made).shape)
    n, keys = len(form), graph.value(k).shape[-1]
    return _Mixing(
        _Side(q, _matrices(graph.value(q).shape)),
        _Side(k, _matrices(graph.value(k).shape).swapaxes(1, 2)),
        _Side(values, _matrices(graph.value(values).shape)),
        scale,
        form,
        None if masked is None else _spread(masked, graph.value(tensor).shape, n, keys),
        mask,
    )


def _spread(masked: Array, shape: tuple[int, ...], n: int, keys: int) -> Array:
    return np.broadcast_to(masked, shape).reshape(n, -1, keys)


def _matrices(shape: tuple[int, ...]) -> Array:
    return in_order(shape).reshape(-1, *shape[-2:])


def _scaled(graph: Graph, tensor: str) -> tuple[str, float] | None:
    """What is multiplied with one number, and that number."""
    node = graph.made_by(tensor, "Mul", "Div")
    if node is None:
        return None
    a, b = node.input
    number = graph.number(b)
    if number is not None:
        return a, number if node.op_type == "Mul" else 1 / number
    number = graph.number(a)
    return (b, number) if number is not None and node.op_type == "Mul" else None


def _masked(graph: Graph, tensor: str) -> tuple[str, str, Array] | None:
    """The scores ahead of a mask, the tensor that says it, and where it says to leave out."""
    node = graph.made_by(tensor, "Add", "Where")
    if node is None:
        return None
    if node.op_type == "Add":
        for scores, mask in (node.input, reversed(node.input)):
            if graph.made_by(mask, "MatMul", "Mul", "Div") is not None:
                continue
            value = graph.value(mask)
            if not ((value == 0) | (value < MASKED)).all():
                raise RefusalError("it adds more than a mask to its scores")
            return scores, mask, value < MASKED
        return None
    condition, a, b = node.input
    for scores, other, is_masked in ((a, b, False), (b, a, True)):
        number = graph.number(other)
        if number is not None and number < MASKED:
            return scores, condition, graph.value(condition) == is_masked
    return None


def _operator(graph: Graph, node: onnx.NodeProto, made: str) -> _Mixing:
    """ONNX's own Attention, opset 23, on (rows, heads, time, head_dim)."""
    q, k, v = node.input[:3]
    shape = graph.value(q).shape
    if attribute(node, "is_causal", 0) or attribute(node, "softcap", 0.0):
        raise RefusalError("it is causal or its scores are capped")
    if len(shape) != 4 or operand(node, 4) or operand(node, 5) or node.output[0] != made:
        raise RefusalError("heads that are not split yet, or keys and values of the past")
    mask, masked = operand(node, 3), None
    if mask:
        value = graph.value(mask)
        masked = ~value if value.dtype == np.bool_ else value < MASKED
        n = shape[0] * shape[1]
        masked = _spread(masked, (*shape[:3], graph.value(k).shape[2]), n, graph.value(k).shape[2])
    q_side, k_side, v_side = (_Side(name, _matrices(graph.value(name).shape)) for name in (q, k, v))
    scale = attribute(node, "scale", 1 / math.sqrt(shape[-1]))
    form = _matrices(graph.value(made).shape)
    return _Mixing(q_side, k_side, v_side, scale, form, masked, mask)


# ----- heads and projections


def _heads(places: Array, mixing: _Mixing, shape: tuple[int, ...]) -> _Heads:
    """Told by where the numbers (rows, time, features) come from in the result."""
    matrices, time, head_dim = mixing.form.shape
    where = np.empty(mixing.form.size, np.int64)
    where[mixing.form.reshape(-1)] = np.arange(mixing.form.size)
    matrix, step, column = np.unravel_index(where[places], (matrices, time, head_dim))
    rows, _, dim = places.shape
    is_plain = (
        (step == np.arange(time)[:, None]).all()
        and (column == column[:1, :1]).all()
        and (matrix == matrix[:, :1]).all()
        and matrices * head_dim == rows * dim
    )
    if not is_plain:
        raise RefusalError(f"the heads of {shape} are not put side by side for every step")
    columns = np.lexsort((column[0, 0], matrix[0, 0]))
    which = matrix[:, 0][:, columns][:, ::head_dim]
    return _Heads(which, columns, head_dim)


def _projection(graph: Graph, side: _Side, heads: _Heads) -> _Part:
    """The weights behind queries, keys or values, in the order of heads."""
    tensor, places, scale = side.tensor, side.places, side.scale
    while True:
        found = origin(graph, tensor)
        if found is None:
            raise RefusalError(f"{tensor!r} is put together from several tensors")
        tensor, places = found.source, found.places.reshape(-1)[places]
        step = _scaled(graph, tensor)
        if step is None:
            break
        tensor, scale = step[0], scale * step[1]
    found_product = product(graph, tensor)
    if found_product is None or len(places) < int(heads.which.max()) + 1:
        raise RefusalError(f"{tensor!r} is no projection of steps, or shared between heads")
    features = len(found_product.weight)
    by_row = places[heads.which]  # (rows, heads, time, head_dim)
    steps, rows = by_row // features, by_row % features
    if not ((steps == steps[:, :1, :, :1]).all() and (rows == rows[:1, :, :1]).all()):
        raise RefusalError(f"{tensor!r} is not split into heads alike for every step")
    order = rows[0, :, 0].reshape(-1)
    x_places = of_steps(steps[:, 0, :, 0], found_product.weight.shape[1])
    bias = np.zeros(features) if found_product.bias is None else found_product.bias
    return _Part(
        arranged(graph, found_product.x, x_places),
        found_product.weight[order] * scale,
        bias[order] * scale,
    )


def _mask(graph: Graph, mixing: _Mixing, heads: _Heads) -> str:
    """The name of a mask of steps; empty without one."""
    if mixing.masked is None:
        return ""
    masked = mixing.masked[heads.which]  # (rows, heads, queries, keys)
    if not graph.holds_numbers(mixing.mask):
        if masked.any():
            raise RefusalError("a fixed mask, by which not every step looks at all steps")
        return ""
    if not (masked == masked[:, :1, :1]).all():
        raise RefusalError("a mask by which not every step looks at the same steps")
    return step_mask(graph, mixing.mask, ~masked[:, 0, 0])
