"""From an ONNX model to a network that can be trained, checked on real rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from math import prod

import numpy as np
import onnx

from compress.evaluate import fixed_batch
from compress.export import PARITY_ATOL, PARITY_RTOL, to_onnx
from compress.integrity import tensors
from compress.model_file import has_subgraphs, is_quantized
from compress.onnx_import import (
    activations,
    attention,
    convolution,
    dense,
    elementwise,
    labels,
    masks,
    normalization,
    over_time,
    pooling,
    preprocessing,
    probabilities,
    recurrent,
    scaling,
    shape,
    turned,
    words,
    written_out,
)
from compress.onnx_import.detours import without_detours
from compress.onnx_import.graph import Graph, RefusalError
from compress.onnx_import.meaning import task_of
from compress.onnx_import.piece import Handler, Piece
from compress.session import Port, Session
from compress.simplify import simplify
from hlserve.errors import ConfigError, DataError, ModelFileError, UnsupportedModelError
from hlserve.nn.layer import Layer
from hlserve.nn.network import Input, Network, Node
from hlserve.nn.param import Array

# Looked through in this order: what is written out in several operators comes first.
HANDLERS: tuple[Handler, ...] = (
    *labels.HANDLERS,
    *recurrent.HANDLERS,
    *turned.HANDLERS,
    *attention.HANDLERS,
    *words.HANDLERS,
    *probabilities.HANDLERS,
    *masks.HANDLERS,
    *over_time.HANDLERS,
    *normalization.HANDLERS,
    *written_out.HANDLERS,
    *activations.HANDLERS,
    *dense.HANDLERS,
    *convolution.HANDLERS,
    *elementwise.HANDLERS,
    *pooling.HANDLERS,
    *scaling.HANDLERS,
    *preprocessing.HANDLERS,
    *shape.HANDLERS,
)

IMPORT_ROWS = 32  # that an imported network is usually compared on
_MOST_GROWTH = 1.5  # of the matrices; halves of zeros may be added
_ROWS_TO_RUN = 5  # shapes and constants need no more
_DTYPES = ("float32", "int64")  # what a network takes


class NotImportableError(UnsupportedModelError):
    """No network does what the model does; the message names every node in the way."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of a model.

    Attributes:
        network: takes the model's inputs and answers its outputs, under their names.
        difference: the largest between the model in ONNX Runtime and both the network and the
            file it is exported to, over all rows given.
        notes: what a user must know, such as outputs that were left out.
    """

    network: Network
    difference: float
    notes: tuple[str, ...]


def import_onnx(
    model: onnx.ModelProto,
    feeds: Mapping[str, Array],
    *,
    judged_output: str | None = None,
    labels: Array | None = None,
) -> Imported:
    """A trainable network with the model's weights that answers what the model answers.

    Args:
        model: stays as it is; its weights are inside.
        feeds: real rows, (rows, ...) by input name, of the types that the model takes. Shapes
            are found on a few of them, answers compared on all.
        judged_output: the only output to import; None takes all that can be imported.
        labels: of any rows; they tell what numbers mean that no Softmax is behind.

    Raises:
        NotImportableError: something in the model has no layer; names every such node.
        DataError: ONNX Runtime cannot run the rows.
        ModelFileError: ONNX Runtime cannot load the model.
    """
    _require_plain(model)
    session = Session(model.SerializeToString())
    _require_rows_first(session.inputs, feeds)
    some = {name: rows[: fixed_batch(session) or _ROWS_TO_RUN] for name, rows in feeds.items()}
    cleaned, notes = simplify(model, some)
    graph = _looked_at(cleaned, some)
    pieces, left_out = _pieces(graph, judged_output)
    network = _network(graph, session.inputs, pieces)
    _require_own_weights(model, network)
    network.task = task_of(network, labels)
    return Imported(network, _difference(session, network, feeds), (*notes, *left_out))


# ----- what is looked at


def _require_plain(model: onnx.ModelProto) -> None:
    if is_quantized(model):
        raise NotImportableError(
            "the model computes with integers already; give the one that it was made from"
        )
    if has_subgraphs(model):
        inside = [
            n for n in model.graph.node if any(a.HasField("g") or a.graphs for a in n.attribute)
        ]
        raise NotImportableError(_listed([_Blocked(node, "control flow") for node in inside]))


def _require_rows_first(inputs: Sequence[Port], feeds: Mapping[str, Array]) -> None:
    reasons = []
    for port in inputs:
        free = [size for size in port.shape[1:] if not isinstance(size, int)]
        if not port.shape:
            reasons.append(f"input {port.name!r} is one number, not one a row")
        elif free and isinstance(port.shape[0], int):
            reasons.append(f"input {port.name!r} has shape {port.shape}: rows must come first")
        if port.dtype not in _DTYPES:
            reasons.append(f"input {port.name!r} is {port.dtype}, expected one of {_DTYPES}")
    if reasons:
        raise NotImportableError("this model cannot be trained: " + "; ".join(reasons))
    missing = sorted({port.name for port in inputs} - feeds.keys())
    if missing or not feeds or min(map(len, feeds.values())) == 0:
        raise DataError(f"rows are needed for every input of the model; missing {missing}")


def _looked_at(model: onnx.ModelProto, rows: Mapping[str, Array]) -> Graph:
    try:
        return Graph(model, rows)
    except (ModelFileError, DataError) as error:
        raise NotImportableError(f"its inner values cannot be told: {error}") from error


# ----- which layers make which tensor


@dataclass(frozen=True, slots=True)
class _Blocked:
    node: onnx.NodeProto
    reason: str

    def __str__(self) -> str:
        name = self.node.name or next(iter(self.node.output), "")
        return f"node {name!r} ({self.node.op_type}): {self.reason}"


def _pieces(
    graph: Graph, judged: str | None
) -> tuple[dict[str, dict[str, Piece]], tuple[str, ...]]:
    """For every output that can be imported its pieces by tensor; and what is said of others."""
    if judged is not None and judged not in graph.outputs:
        raise ConfigError(f"the model has no output {judged!r}; it has {list(graph.outputs)}")
    wanted = tuple(
        output
        for output in graph.outputs
        if judged in (None, output) or graph.value(output).dtype == np.int64
    )
    plans = {output: _plan(graph, output) for output in wanted}
    possible = {output: pieces for output, (pieces, blocked) in plans.items() if not blocked}
    everything = {str(b): b for _, blocked in plans.values() for b in blocked}
    if all(graph.value(output).dtype == np.int64 for output in possible):
        raise NotImportableError(
            _listed(list(everything.values())) if everything else "it answers labels alone"
        )
    notes = [
        f"output {output!r} was left out: {_listed(blocked)}"
        for output, (_, blocked) in plans.items()
        if blocked
    ]
    unasked = [output for output in graph.outputs if output not in wanted]
    notes += [
        f"output {output!r} was left out: only {judged!r} was asked for" for output in unasked
    ]
    return possible, tuple(notes)


def _listed(blocked: Sequence[_Blocked]) -> str:
    return "no layer stands for " + "; ".join(map(str, blocked))


def _plan(graph: Graph, output: str) -> tuple[dict[str, Piece], list[_Blocked]]:
    """The pieces of all tensors that an output needs, and the nodes that have none."""
    pieces: dict[str, Piece] = {}
    blocked: list[_Blocked] = []
    try:
        graph.shape(output)
    except RefusalError as error:
        made = graph.producer(output) or onnx.NodeProto(name=output, op_type="output")
        return pieces, [_Blocked(made, str(error))]
    seen: set[str] = set()
    ahead = [output]
    while ahead:
        tensor = ahead.pop()
        if tensor in seen or graph.is_input(tensor):
            continue
        seen.add(tensor)
        found = _piece(graph, tensor)
        if isinstance(found, Piece):
            pieces[tensor] = found
            ahead.extend(found.inputs)
        else:
            blocked.append(found)
            ahead.extend(graph.data_inputs(found.node))
    if graph.is_input(_behind_detours(pieces, output)):
        made = graph.producer(output) or onnx.NodeProto(name=output, op_type="output")
        blocked.append(_Blocked(made, "an input that is handed on as it came"))
    return pieces, blocked


def _behind_detours(pieces: Mapping[str, Piece], tensor: str) -> str:
    """The tensor that this one is, where pieces without layers only hand it on."""
    while tensor in pieces and not pieces[tensor].nodes:
        (tensor,) = pieces[tensor].inputs
    return tensor


def _piece(graph: Graph, tensor: str) -> Piece | _Blocked:
    node = graph.producer(tensor)
    if node is None:
        constant = onnx.NodeProto(name=tensor, op_type="initializer")
        return _Blocked(constant, "a constant where an activation is expected")
    if node.domain not in ("", "ai.onnx", preprocessing.DOMAIN):
        return _Blocked(node, f"an operator of the domain {node.domain!r}")
    try:
        for handler in HANDLERS:
            piece = handler(graph, tensor)
            if piece is not None:
                return piece
    except (RefusalError, ConfigError) as error:
        return _Blocked(node, str(error))
    return _Blocked(node, f"there is no layer for this operator{_operands(graph, node)}")


def _operands(graph: Graph, node: onnx.NodeProto) -> str:
    shapes = [f"{graph.value(name).shape}" for name in node.input if name]
    return f" between arrays of shapes {', '.join(shapes)}" if len(shapes) > 1 else ""


# ----- the network


def _network(
    graph: Graph, ports: Sequence[Port], plans: Mapping[str, Mapping[str, Piece]]
) -> Network:
    pieces = {tensor: piece for plan in plans.values() for tensor, piece in plan.items()}
    order = TopologicalSorter({t: p.inputs for t, p in pieces.items()}).static_order()
    names = _Names(graph, [port.name for port in ports])
    nodes: list[Node] = []
    for tensor in order:
        piece = pieces.get(tensor)
        if piece is None:
            continue
        if not piece.nodes:
            names.same(tensor, piece.inputs[0])
        for node in piece.nodes:
            reads = tuple(names.of(i) for i in node.inputs)
            nodes.append(replace(node, name=names.fresh(node.name, node.layer), inputs=reads))
    read = {name for node in nodes for name in node.inputs}
    inputs = [
        Input(port.name, graph.shape(port.name), port.dtype) for port in ports if port.name in read
    ]
    outputs = {output: names.of(output) for output in plans}
    try:
        return without_detours(Network(inputs, nodes, outputs))
    except ConfigError as error:
        raise NotImportableError(f"its layers do not fit together: {error}") from error


class _Names:
    """What the network calls the nodes behind tensors: the kind of layer and a number."""

    def __init__(self, graph: Graph, inputs: Sequence[str]) -> None:
        self._names = {name: name for name in inputs}
        self._taken = {*inputs, *graph.outputs}

    def of(self, tensor: str) -> str:
        return self._names[tensor]

    def same(self, tensor: str, other: str) -> None:
        self._names[tensor] = self._names[other]

    def fresh(self, tensor: str, layer: Layer) -> str:
        kind, n = type(layer).__name__.lower(), 1
        while f"{kind}_{n}" in self._taken:
            n += 1
        self._names[tensor] = f"{kind}_{n}"
        self._taken.add(f"{kind}_{n}")
        return f"{kind}_{n}"


def _require_own_weights(model: onnx.ModelProto, network: Network) -> None:
    """Refuses operators that share their weights, each of which would get its own.

    Raises:
        NotImportableError: the network is far larger than the file.
    """
    before = sum(prod(tensor.dims) for tensor in tensors(model) if len(tensor.dims) > 1)
    values = (param.value for param in network.params().values())
    after = sum(value.size for value in values if value.ndim > 1)
    if 0 < _MOST_GROWTH * before < after:
        raise NotImportableError(
            "its operators share weights, as steps written out one by one do: the network would "
            f"hold {after:,} numbers in matrices instead of {before:,}"
        )


# ----- whether it answers the same


def _difference(session: Session, network: Network, feeds: Mapping[str, Array]) -> float:
    """The largest between the original and both the network and its export.

    Raises:
        NotImportableError: it is more than rounding.
    """
    read = {entry.name: feeds[entry.name] for entry in network.inputs}
    expected = _answers(session, feeds)
    ours = network.predict(read)
    exported = Session(to_onnx(network).SerializeToString(), name="export").run(read)
    worst = 0.0
    for name in network.outputs:
        wanted = expected[name]
        allowed = PARITY_ATOL + PARITY_RTOL * float(np.max(np.abs(wanted), initial=0.0))
        for answers in (ours[name], exported[name]):
            if answers.shape != wanted.shape:
                raise NotImportableError(
                    f"output {name!r} would have shape {answers.shape} instead of {wanted.shape}"
                )
            off = float(np.max(np.abs(answers - wanted), initial=0.0))
            if not off <= allowed:  # NaN fails too
                raise NotImportableError(
                    f"output {name!r} of the imported network is off by {off:.3g}, expected at "
                    f"most {allowed:.3g}, which is rounding"
                )
            worst = max(worst, off)
    return worst


def _answers(session: Session, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """For all rows, in portions where the model's batch is fixed; a rest is filled with zeros."""
    step = fixed_batch(session)
    if step is None:
        return session.run(feeds)
    n = len(next(iter(feeds.values())))
    parts = []
    for start in range(0, n, step):
        parts.append(
            session.run({k: _filled(v[start : start + step], step) for k, v in feeds.items()})
        )
    return {name: np.concatenate([part[name] for part in parts])[:n] for name in parts[0]}


def _filled(rows: Array, n: int) -> Array:
    return np.concatenate([rows, np.zeros((n - len(rows), *rows.shape[1:]), rows.dtype)])
