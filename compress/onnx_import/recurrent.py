"""Recurrent layers: LSTM, GRU and RNN, whichever way their states are read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from compress.model_file import attribute
from compress.onnx_import.graph import Graph, RefusalError, operand
from compress.onnx_import.movement import arranged, in_order, moves, origin
from compress.onnx_import.piece import Handler, Piece, chain
from compress.onnx_import.turned import selected
from hlserve.nn.layers import GRU, LSTM, RNN, Concat, Flatten, Reshape
from hlserve.nn.param import Array

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_ACTIVATIONS = {
    "LSTM": [["Sigmoid", "Tanh", "Tanh"]],
    "GRU": [["Sigmoid", "Tanh"]],
    "RNN": [["Tanh"], ["Relu"]],
}
_SEQUENCE_LENS, _FIRST_STATES, _PEEPHOLES = 4, (5, 6), 7  # ONNX's inputs


def states(graph: Graph, tensor: str) -> Piece | None:
    """The states of every step, the last ones, or some steps, behind whatever turns their axes."""
    found = origin(graph, tensor)
    node = None if found is None else graph.made_by(found.source, *_GATES)
    if node is None or found is None:
        return None
    after = graph.shape(tensor)  # refuses rows that are not first
    forms = _forms(graph, node, found.source)
    names = {kind: arranged(graph, found.source, places) for kind, places in forms.items()}
    for kind, name in names.items():
        if name == tensor:
            part = _last(graph, node, tensor) if kind == "last" else None
            layer = _layer(graph, node, last_only=kind == "last")
            return part or chain(tensor, [_input(graph, node)], layer)
    for kind, places in forms.items():
        if np.array_equal(found.places.reshape(-1), places.reshape(-1)):
            if (graph.n, *after) == places.shape:
                return Piece((names[kind],))
            return chain(tensor, [names[kind]], Flatten() if len(after) == 1 else Reshape(after))
    if "all" not in names:
        raise RefusalError("of its last states only a part is read, or in another order")
    return selected(graph, tensor, names["all"], _within(forms["all"], found.places))


HANDLERS: tuple[Handler, ...] = (states,)


# ----- below


def _forms(graph: Graph, node: onnx.NodeProto, output: str) -> dict[str, Array]:
    """The places of ``all`` states (rows, time, features) and of the ``last`` (rows, features)."""
    which, shape = list(node.output).index(output), graph.value(output).shape
    every = in_order(shape)
    if which == 0:  # (time, directions, rows, hidden)
        time, directions, rows, hidden = shape
        ends = np.stack([every[-1 if d == 0 else 0, d] for d in range(directions)], axis=1)
        return {
            "all": every.transpose(2, 0, 1, 3).reshape(rows, time, directions * hidden),
            "last": ends.reshape(rows, directions * hidden),
        }
    if which == 1:  # (directions, rows, hidden)
        return {"last": every.transpose(1, 0, 2).reshape(shape[1], -1)}
    raise RefusalError("its third output, the last cell states")


def _within(places: Array, wanted: Array) -> Array:
    """The places of numbers in a tensor that holds all of a source, in another order."""
    where = np.empty(places.size, np.int64)
    where[places.reshape(-1)] = np.arange(places.size)
    return where[wanted]


def _is_read_by_steps(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether somebody reads all its states, so that the last ones are found among these."""
    ends, ahead = set[str](), [name for name in node.output[:2] if name]
    while ahead:
        name = ahead.pop()
        for reader in graph.readers(name):
            if not any(map(graph.holds_numbers, reader.output)):
                continue  # it looks at the shape
            moved = [made for made in reader.output if made and moves(graph, made)]
            ahead.extend(moved)
            if not moved:
                ends.add(name)
    kinds = [origin(graph, name) for name in ends]
    forms = {name: _forms(graph, node, name) for name in node.output[:2] if name}
    return len(ends) > 1 and any(
        found is not None
        and not np.array_equal(found.places.reshape(-1), forms[found.source]["last"].reshape(-1))
        for found in kinds
    )


def _last(graph: Graph, node: onnx.NodeProto, tensor: str) -> Piece | None:
    """The last states where others read these too; None where a layer gives them alone."""
    first = node.output[0]
    if not first or not graph.readers(first):
        return None
    forms = _forms(graph, node, first)
    name = arranged(graph, first, forms["last"])
    if name != tensor:
        return Piece((name,))
    if not _is_read_by_steps(graph, node):
        return None
    directions, hidden = graph.value(first).shape[1], graph.value(first).shape[3]
    ends = [forms["last"][:, d * hidden : (d + 1) * hidden] for d in range(directions)]
    if directions > 1:
        return chain(tensor, [arranged(graph, first, places) for places in ends], Concat(0))
    source = arranged(graph, first, forms["all"])
    return selected(graph, tensor, source, _within(forms["all"], ends[0]))


def _input(graph: Graph, node: onnx.NodeProto) -> str:
    """The name of the sequences, rows first."""
    shape = graph.value(node.input[0]).shape
    if attribute(node, "layout", 0):
        raise RefusalError("its layout is 1, which ONNX Runtime does not run")
    if shape[1] != graph.n or graph.is_input(node.input[0]):
        raise RefusalError(
            f"it walks over the first axis of {shape}, which are the rows; rows must come first "
            "(PyTorch: batch_first=True)"
        )
    return arranged(graph, node.input[0], in_order(shape).transpose(1, 0, 2))


def _layer(graph: Graph, node: onnx.NodeProto, *, last_only: bool) -> LSTM | GRU | RNN:
    _require_plain(graph, node)
    arrays = [graph.fixed(operand(node, i)) for i in range(1, 4)]
    weight, recurrent_weight, bias = arrays
    if weight is None or recurrent_weight is None or (operand(node, 3) and bias is None):
        raise RefusalError("its weights are computed from the rows")
    rows = weight.shape[1]
    first = np.zeros(weight.shape[:2]) if bias is None else bias[:, :rows]
    second = np.zeros(weight.shape[:2]) if bias is None else bias[:, rows:]
    hidden, is_both = recurrent_weight.shape[2], len(weight) == 2
    weights = {"weight": weight, "recurrent_weight": recurrent_weight}
    if node.op_type == "GRU":
        candidate = slice(2 * hidden, None)
        biases = {"bias": first.copy(), "recurrent_bias": second[:, candidate]}
        biases["bias"][:, : 2 * hidden] += second[:, : 2 * hidden]
        return GRU(weight.shape[2], hidden, is_both, last_only).with_arrays(
            _as_float32(weights | biases)
        )
    weights["bias"] = first + second
    if node.op_type == "LSTM":
        return LSTM(weight.shape[2], hidden, is_both, last_only).with_arrays(_as_float32(weights))
    layer = RNN(
        weight.shape[2],
        hidden,
        "relu" if _activations(node)[0] == "Relu" else "tanh",
        is_both,
        last_only,
    )
    return layer.with_arrays(_as_float32(weights))


def _as_float32(arrays: dict[str, Array]) -> dict[str, Array]:
    return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}


def _activations(node: onnx.NodeProto) -> Sequence[str]:
    given = [name.decode() for name in attribute(node, "activations", [])]
    return given or _ACTIVATIONS[node.op_type][0] * 2


def _require_plain(graph: Graph, node: onnx.NodeProto) -> None:
    """Raises RefusalError where the operator does what no layer of ours does."""
    kind, lengths = node.op_type, operand(node, _SEQUENCE_LENS)
    time = len(graph.value(node.input[0]))
    if attribute(node, "direction", "forward") == "reverse":
        raise RefusalError("it walks backwards only")
    one, given = _ACTIVATIONS[kind], _activations(node)
    if not any(list(given) == names * (len(given) // len(names)) for names in one):
        raise RefusalError(f"its activations are {list(given)}, expected those of {kind} itself")
    for name in ("clip", "input_forget"):
        if attribute(node, name, 0):
            raise RefusalError(f"it has {name}")
    if kind == "GRU" and not attribute(node, "linear_before_reset", 0):
        raise RefusalError(
            "its reset gate works ahead of the recurrent weights (linear_before_reset=0); the "
            "layer's works behind them"
        )
    if lengths and (graph.holds_numbers(lengths) or (graph.value(lengths) != time).any()):
        raise RefusalError("its sequences have lengths of their own (sequence_lens)")
    if operand(node, _PEEPHOLES):
        raise RefusalError("it has peepholes")
    for i in _FIRST_STATES:
        if operand(node, i) and not graph.is_zero(operand(node, i)):
            raise RefusalError("its first states are not zeros (initial_h, initial_c)")
