"""Recurrent layers: LSTM, GRU and RNN, whichever way their states are read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from compress.model_file import attribute
from compress.onnx_import.graph import Graph, RefusalError, operand
from compress.onnx_import.movement import arranged, in_order, origin
from compress.onnx_import.piece import Handler, Piece, chain
from hlserve.nn.layers import GRU, LSTM, RNN, Flatten, Reshape
from hlserve.nn.param import Array

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_ACTIVATIONS = {
    "LSTM": [["Sigmoid", "Tanh", "Tanh"]],
    "GRU": [["Sigmoid", "Tanh"]],
    "RNN": [["Tanh"], ["Relu"]],
}
_SEQUENCE_LENS, _FIRST_STATES, _PEEPHOLES = 4, (5, 6), 7  # ONNX's inputs


def states(graph: Graph, tensor: str) -> Piece | None:
    """The states of every step, or the last ones, behind whatever turns their axes."""
    found = origin(graph, tensor)
    node = None if found is None else graph.made_by(found.source, *_GATES)
    if node is None or found is None:
        return None
    shape = graph.shape(tensor)  # refuses rows that are not first
    x, time = _inputs(graph, node)
    states = _read(graph, node, found.source, found.places)
    layer = _layer(graph, node, last_only=states == "last")
    width = layer.hidden_size * (1 + layer.bidirectional)
    whole = (width,) if states == "last" else (time, width)
    after = [] if shape == whole else [Flatten() if len(shape) == 1 else Reshape(shape)]
    return chain(tensor, [x], layer, *after)


HANDLERS: tuple[Handler, ...] = (states,)


# ----- below


def _read(graph: Graph, node: onnx.NodeProto, output: str, places: Array) -> str:
    """What is read of an output: ``all`` states or the ``last`` ones.

    Raises:
        RefusalError: something else.
    """
    which, shape = list(node.output).index(output), graph.value(output).shape
    every = in_order(shape)
    if which == 0:  # (time, directions, rows, hidden)
        forms = {"all": every.transpose(2, 0, 1, 3), "last": _ends(every).transpose(1, 0, 2)}
    elif which == 1:  # (directions, rows, hidden)
        forms = {"last": every.transpose(1, 0, 2)}
    else:
        raise RefusalError("its third output, the last cell states")
    for name, form in forms.items():
        if np.array_equal(places.reshape(-1), form.reshape(-1)):
            return name
    raise RefusalError(
        f"of its states {shape} only a part is read, or in another order; there are layers for "
        "the states of all steps and for the last one of each direction"
    )


def _ends(every: Array) -> Array:
    """Of (time, directions, ...) what each direction ends with."""
    return np.stack([every[-1 if d == 0 else 0, d] for d in range(every.shape[1])])


def _inputs(graph: Graph, node: onnx.NodeProto) -> tuple[str, int]:
    """The name of the sequences, rows first, and how many steps they have."""
    shape = graph.value(node.input[0]).shape
    if attribute(node, "layout", 0):
        raise RefusalError("its layout is 1, which ONNX Runtime does not run")
    if shape[1] != graph.n or graph.is_input(node.input[0]):
        raise RefusalError(
            f"it walks over the first axis of {shape}, which are the rows; rows must come first "
            "(PyTorch: batch_first=True)"
        )
    x = arranged(graph, node.input[0], in_order(shape).transpose(1, 0, 2))
    return x, shape[0]


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
