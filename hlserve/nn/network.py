"""A network: layers as a graph in topological order, and the one border of the layout.

Outside, rows come first: (batch, features), (batch, channels, height, width). Inside, the
batch comes last. The view is turned here and nowhere else.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import DTypeLike

from hlserve.errors import ConfigError, DataError
from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.graph import Input as Input
from hlserve.nn.graph import Node as Node
from hlserve.nn.graph import (
    dtype_of,
    id_bounds,
    infer_shapes,
    masks,
    scores_of,
    trained_outputs,
    values_with_params_upstream,
)
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer
from hlserve.nn.param import Array, Param, QParams
from hlserve.nn.rows import fit_rows, require_ids, require_mask
from hlserve.nn.workspace import Workspace

Task = Literal["classification", "multilabel", "regression"]


class NetworkBackward(Protocol):
    """The way back through a network for one pass; to be called once."""

    def __call__(self, dy: Array, *, to_inputs: bool = False) -> dict[str, Array]:
        """Takes the batch-last gradient of the output and adds to every ``Param.grad``.

        ``dy`` may be overwritten. With ``to_inputs`` the gradients of the network's inputs are
        answered too, batch-first and by name; without, nothing is and their work is left out.
        """


class Network:
    """Named layers in topological order.

    All trained parameters lie in one flat vector, ``value``, and their gradients in another,
    ``grad``; those that are not trained (running statistics) lie in a third, ``statistics``.
    Every ``Param`` is a view into them.

    Attributes:
        inputs, nodes: the graph.
        outputs: output name -> node name.
        shapes: the shape of one row of every input and node.
        task: what the outputs mean, or None.
        class_labels: what the classes are called, or None.
        activation_qparams: node or input name -> how that activation is quantized on export.

    Raises:
        ConfigError: a name is used twice or unknown, or shapes do not fit.
    """

    def __init__(
        self,
        inputs: Sequence[Input],
        nodes: Sequence[Node],
        outputs: Mapping[str, str],
        *,
        task: Task | None = None,
        class_labels: Sequence[str] | None = None,
    ) -> None:
        self.inputs = tuple(inputs)
        self.nodes = tuple(nodes)
        self.outputs = dict(outputs)
        self.task = task
        self.class_labels = None if class_labels is None else tuple(class_labels)
        self.activation_qparams: dict[str, QParams] = {}
        self.shapes = infer_shapes(self.inputs, self.nodes, self.outputs)
        self._n_ids = id_bounds(self.inputs, self.nodes)
        self._masks = masks(self.inputs, self.nodes)
        self._learns = values_with_params_upstream(self.nodes)
        self._place_params(np.float32)

    # ----- parameters

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """What parameters and activations are computed in."""
        return self.value.dtype

    def params(self) -> dict[str, Param]:
        """Every parameter as ``<node>.<name>``, in graph order."""
        return {
            f"{node.name}.{name}": param
            for node in self.nodes
            for name, param in node.layer.params().items()
        }

    @property
    def n_parameters(self) -> int:
        """How many trained numbers the network holds."""
        return int(self.value.size)

    def macs(self) -> int:
        """Multiply-accumulates for one row."""
        return sum(n.layer.macs(*(self.shapes[i] for i in n.inputs)) for n in self.nodes)

    def initialize(self, rng: np.random.Generator) -> Self:
        """Draws fresh values for every parameter, in graph order; answers the network."""
        for node in self.nodes:
            node.layer.initialize(rng)
        return self

    def astype(self, dtype: DTypeLike) -> Network:
        """A copy that computes in another float type; float64 is for gradient checks."""
        other = copy.deepcopy(self)
        for param in other.params().values():
            param.value = param.value.astype(dtype)
        other._place_params(dtype)
        return other

    def copy(self) -> Network:
        """An independent network with the same values."""
        other = self.astype(self.dtype)
        other.activation_qparams = dict(self.activation_qparams)
        return other

    def rewired(self, nodes: Sequence[Node]) -> Network:
        """The same parameters under other nodes: what trains the one trains the other."""
        other = copy.copy(self)
        other.nodes = tuple(nodes)
        other.shapes = infer_shapes(other.inputs, other.nodes, other.outputs)
        other._learns = values_with_params_upstream(other.nodes)
        return other

    def replica(self) -> Network:
        """A network that shares this one's trained values, with gradients of its own.

        For another thread: both may run and go backward at once. Statistics are copies.
        """
        params = self.params().values()
        shared = [self.value, *(p.value for p in params if p.is_trained)]
        other = copy.deepcopy(self, {id(array): array for array in shared})
        theirs = list(other.params().values())
        other.grad = np.zeros_like(self.grad)
        start = 0
        for param in (p for p in theirs if p.is_trained):
            stop = start + param.value.size
            param.grad = other.grad[start:stop].reshape(param.value.shape)
            start = stop
        other.statistics, _ = _flatten((p for p in theirs if not p.is_trained), self.dtype)
        return other

    def replace_layers(self, layers: Mapping[str, Layer]) -> Network:
        """A network of copies in which some nodes have another layer; shapes are inferred anew."""
        source = self.copy()
        nodes = [replace(n, layer=layers.get(n.name, n.layer)) for n in source.nodes]
        return Network(
            source.inputs, nodes, source.outputs, task=self.task, class_labels=self.class_labels
        )

    # ----- running

    def workspace(self, rng: np.random.Generator | None = None) -> Workspace:
        """Buffers for one pass in flight; keep it to make steps without large allocations."""
        return Workspace(self.dtype, rng)

    def forward(
        self,
        rows: Array | Mapping[str, Array],
        *,
        training: bool = False,
        workspace: Workspace | None = None,
        until: str | None = None,
    ) -> tuple[Array, NetworkBackward]:
        """Runs the network as far as one node.

        Args:
            rows: (batch, ...) for a single input, else one array an input, by name.
            training: whether layers such as Dropout behave as in training.
            workspace: buffers to use again; a fresh one by default.
            until: the node to stop at; the only output's node by default.

        Returns:
            The node's activation, batch-last, and the way back; both live in the workspace
            until its next pass.
        """
        target = self._only_output() if until is None else until
        used = workspace if workspace is not None else self.workspace()
        values, tape = self._run(rows, [target], training, used)

        def backward(dy: Array, *, to_inputs: bool = False) -> dict[str, Array]:
            grads = self._backward({target: dy}, tape, to_inputs)
            return {n: np.moveaxis(g, -1, 0) for n, g in grads.items()} if to_inputs else {}

        return values[target], backward

    def activations(
        self,
        rows: Array | Mapping[str, Array],
        names: Sequence[str],
        workspace: Workspace | None = None,
    ) -> dict[str, Array]:
        """The batch-last activations of some nodes or inputs, as in prediction."""
        used = workspace if workspace is not None else self.workspace()
        values, _ = self._run(rows, names, False, used)
        return {name: values[name] for name in names}

    def predict(
        self, rows: Array | Mapping[str, Array], *, batch_size: int = 1024
    ) -> dict[str, Array]:
        """Every output for every row, batch-first, by output name."""
        arrays = self.named_rows(rows)
        n = len(next(iter(arrays.values())))
        workspace = self.workspace()
        dtypes = {v: dtype_of(self.node(v).layer, self.dtype) for v in self.outputs.values()}
        results = {o: np.empty((n, *self.shapes[v]), dtypes[v]) for o, v in self.outputs.items()}
        for start in range(0, n, batch_size):
            stop = start + batch_size
            chunk = {name: array[start:stop] for name, array in arrays.items()}
            values, _ = self._run(chunk, list(self.outputs.values()), False, workspace)
            for name, node in self.outputs.items():
                results[name][start:stop] = np.moveaxis(values[node], -1, 0)
        return results

    def named_rows(self, rows: Array | Mapping[str, Array]) -> dict[str, Array]:
        """Rows by input name, each reshaped to its input where the element counts agree.

        Raises:
            DataError: an input is missing or unknown, a row has the wrong size, an id is out of
                the range that the layer reading it knows, or a mask is none.
        """
        fitting = self.fitting_rows(rows)
        for name, n_ids in self._n_ids.items():
            require_ids(name, fitting[name], n_ids)
        for name, kind in self._masks.items():
            require_mask(name, fitting[name], is_prefix=kind == "prefix mask")
        return fitting

    def fitting_rows(self, rows: Array | Mapping[str, Array]) -> dict[str, Array]:
        """``named_rows`` whose values are still to be looked at; reads none of them.

        Raises:
            DataError: an input is missing or unknown, or a row has the wrong size.
        """
        arrays = dict(rows) if isinstance(rows, Mapping) else {self.inputs[0].name: rows}
        wanted = {i.name: i.shape for i in self.inputs}
        if len(wanted) == len(arrays) == 1:
            arrays = dict(zip(wanted, arrays.values(), strict=True))
        if arrays.keys() != wanted.keys():
            raise DataError(f"the network takes {sorted(wanted)}, got {sorted(arrays)}")
        return {name: fit_rows(name, arrays[name], shape) for name, shape in wanted.items()}

    def takes_missing(self, name: str) -> bool:
        """Whether NaN is a value of this input: all that read it know what to do with it."""
        readers = [node.layer for node in self.nodes if name in node.inputs]
        return all(layer.takes_missing for layer in readers)

    @property
    def logits_node(self) -> str:
        """The node that losses look at: what the closing Softmax or Sigmoid is fed with."""
        return scores_of(self.node(self._only_output()))

    def node(self, name: str) -> Node:
        """The node of that name."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise ConfigError(f"no node named {name!r}; there are {[n.name for n in self.nodes]}")

    # ----- other walks over the graph

    def emit(self, g: GraphBuilder) -> dict[str, str]:
        """Says the whole network in ONNX; answers output name -> tensor name."""
        names = {i.name: self._emit_quantized(g, i.name, i.name) for i in self.inputs}
        for node in self.nodes:
            g.row_shapes.update((names[i], self.shapes[i]) for i in node.inputs)
            tensor = node.layer.emit(g, *(names[i] for i in node.inputs))
            names[node.name] = self._emit_quantized(g, node.name, tensor)
        return {output: names[node] for output, node in self.outputs.items()}

    def channel_flow(self) -> ChannelFlow:
        """Where every channel comes from and which parameter axes follow it."""
        flow = ChannelFlow()
        channels: dict[str, Channels] = {}
        for entry in self.inputs:
            ids = flow.new(entry.shape[-1] if len(entry.shape) == 2 else prod(entry.shape[:1]))
            channels[entry.name] = Channels(ids, axis=1 if len(entry.shape) == 2 else 0)
            flow.protect(ids)
        for node in self.nodes:
            units = [channels[i] for i in node.inputs]
            shapes = [self.shapes[i] for i in node.inputs]
            channels[node.name] = node.layer.channel_flow(flow, units, shapes)
        for node_name in self.outputs.values():
            flow.protect(channels[node_name].ids)
        return flow

    # ----- below

    def _place_params(self, dtype: DTypeLike) -> None:
        params = self.params().values()
        self.value, self.grad = _flatten((p for p in params if p.is_trained), dtype)
        self.statistics, _ = _flatten((p for p in params if not p.is_trained), dtype)

    def _emit_quantized(self, g: GraphBuilder, name: str, tensor: str) -> str:
        qparams = self.activation_qparams.get(name)
        return tensor if qparams is None else g.quantized(tensor, qparams)

    def _only_output(self) -> str:
        found = trained_outputs(self.outputs.values(), self.nodes)
        if len(found) != 1:
            raise ConfigError(f"say which of the outputs {sorted(self.outputs)} is meant")
        return found[0]

    def _run(
        self,
        rows: Array | Mapping[str, Array],
        targets: Sequence[str],
        training: bool,
        workspace: Workspace,
    ) -> tuple[dict[str, Array], list[tuple[Node, Backward]]]:
        values = self._turned(self.named_rows(rows))
        tape: list[tuple[Node, Backward]] = []
        wanted = set(targets) - values.keys()
        for node in self.nodes:
            if not wanted:
                break
            values[node.name], backward = node.layer.forward(
                *(values[i] for i in node.inputs),
                training=training,
                workspace=workspace.scope(node.name),
            )
            tape.append((node, backward))
            wanted.discard(node.name)
        if wanted:
            raise ConfigError(f"no node named {sorted(wanted)}")
        return values, tape

    def _turned(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        values = {}
        for entry in self.inputs:
            array = arrays[entry.name]
            readers = [n.layer for n in self.nodes if entry.name in n.inputs]
            if entry.dtype == "float32" and not all(layer.takes_raw for layer in readers):
                array = array.astype(self.dtype, copy=False)
            values[entry.name] = np.moveaxis(array, 0, -1)
        return values

    def _backward(
        self, grads: dict[str, Array], tape: list[tuple[Node, Backward]], to_inputs: bool
    ) -> dict[str, Array]:
        for node, backward in reversed(tape):
            dy = grads.pop(node.name, None)
            if dy is None or not (to_inputs or node.name in self._learns):
                continue
            need_dx = to_inputs or any(i in self._learns for i in node.inputs)
            for name, dx in zip(node.inputs, backward(dy, need_dx=need_dx), strict=False):
                if name in grads:
                    grads[name] += dx
                else:
                    grads[name] = dx
        return grads


def sequential(
    layers: Sequence[Layer],
    entry: Input,
    *,
    output: str = "output",
    task: Task | None = None,
    class_labels: Sequence[str] | None = None,
) -> Network:
    """A network whose layers follow one another; nodes are named ``<layer kind>_<position>``."""
    nodes: list[Node] = []
    for position, layer in enumerate(layers, start=1):
        previous = nodes[-1].name if nodes else entry.name
        nodes.append(Node(f"{type(layer).__name__.lower()}_{position}", layer, (previous,)))
    if not nodes:
        raise ConfigError("a network needs at least one layer")
    return Network([entry], nodes, {output: nodes[-1].name}, task=task, class_labels=class_labels)


def _flatten(params: Iterable[Param], dtype: DTypeLike) -> tuple[Array, Array]:
    listed = list(params)
    size = sum(p.value.size for p in listed)
    value, grad = np.empty(size, dtype), np.zeros(size, dtype)
    start = 0
    for param in listed:
        shape, stop = param.value.shape, start + param.value.size
        param.place(value[start:stop].reshape(shape), grad[start:stop].reshape(shape))
        start = stop
    return value, grad
