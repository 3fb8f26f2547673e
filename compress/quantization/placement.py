"""Where integers begin and end: only where ONNX Runtime fuses a whole island.

A layer with weights becomes one integer operator if its input, its weights and, for a
convolution, its output are quantized with nothing between them but what the runtime fuses:

1. A ReLU that alone reads a layer's output belongs to the layer: the quantizer stands behind it,
   and behind a Clip from zero up, such as ReLU6, whose limits are those of the integers then.
   Behind pooling by maximum it does too: the quantizer ahead of the pooling cuts off what the
   ReLU would.
2. What adds, joins or averages integers (Add, Concat, average pooling) is one too, if all that it
   reads is quantized; a ReLU or Clip behind it belongs to it as well.
3. Layers that only move numbers (pooling by maximum, reshaping, slicing) pass integers through:
   they are quantized behind as they were before.
4. The input of the first layer with weights is quantized behind the preprocessing.
5. Everything else, such as the closing Softmax, stays in floats; a Linear hands it floats itself.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from compress.technique import Kinds
from hlserve.nn.layer import Layer
from hlserve.nn.layers import (
    Add,
    AvgPool1d,
    AvgPool2d,
    Clip,
    Concat,
    Conv1d,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool1d,
    MaxPool2d,
    ReLU,
    Reshape,
    Slice,
    Transpose,
)
from hlserve.nn.network import Network, Node

_CONVOLUTIONS = (Conv1d, Conv2d)
_COMPUTES_IN_INTEGERS = (Add, AvgPool1d, AvgPool2d, Concat, GlobalAvgPool)
_MAXIMUM = (MaxPool1d, MaxPool2d)
_PASSES_INTEGERS = (Flatten, *_MAXIMUM, Reshape, Slice, Transpose)
_NOTHING_ON_EXPORT = (Dropout,)


@dataclass(frozen=True, slots=True)
class Placement:
    """What to quantize.

    Attributes:
        layers: nodes whose weights and bias become integers -> the observed value that feeds
            them, whose scale the bias takes.
        values: every node or input to quantize -> the observed value whose range it shares.
    """

    layers: dict[str, str]
    values: dict[str, str]

    @property
    def observed(self) -> list[str]:
        """The values whose range calibration must find."""
        return sorted(set(self.values.values()))


def place(network: Network, kinds: Kinds = "all", keep_float: Collection[str] = ()) -> Placement:
    """The islands of a network; empty where it has no layer that can run in integers.

    Nodes named in ``keep_float`` end an island as any layer does that has no integer form. With
    ``linear`` convolutions stay in floats, which few channels make the faster way; what feeds a
    Linear is then quantized right ahead of it.
    """
    if kinds == "linear":
        inputs = {
            n.name: n.inputs[0]
            for n in network.nodes
            if isinstance(n.layer, Linear) and n.name not in keep_float
        }
        return Placement(inputs, {v: v for v in inputs.values()})
    nodes = {node.name: node for node in network.nodes}
    layers: dict[str, str] = {}
    values: dict[str, str] = {}
    for node in network.nodes:
        if not isinstance(node.layer, (Linear, *_CONVOLUTIONS)) or node.name in keep_float:
            continue
        path = _path_up(nodes, node.inputs[0])
        layers[node.name] = path[-1]
        values.update(dict.fromkeys(path, path[-1]))
    for name in layers:
        if isinstance(nodes[name].layer, _CONVOLUTIONS):
            _end_island(network, name, values)
    for node in network.nodes:
        if isinstance(node.layer, _COMPUTES_IN_INTEGERS):
            _join(network, node, nodes, values)
    return Placement(layers, {v: s for v, s in values.items() if not _is_nothing(nodes.get(v))})


def _path_up(nodes: dict[str, Node], name: str) -> list[str]:
    """The value, then those before it as long as layers only pass integers through."""
    path = [name]
    node = nodes.get(name)
    while node is not None and isinstance(node.layer, _PASSES_INTEGERS + _NOTHING_ON_EXPORT):
        path.append(node.inputs[0])
        node = nodes.get(node.inputs[0])
    return path


def _join(network: Network, node: Node, nodes: dict[str, Node], values: dict[str, str]) -> None:
    """Quantizes what the node puts out, if all that it reads is quantized already."""
    paths = [_path_up(nodes, name) for name in node.inputs]
    if not all(path[-1] in values for path in paths):
        return
    for path in paths:
        values.update(dict.fromkeys(path, values[path[-1]]))
    _end_island(network, node.name, values)


def _end_island(network: Network, name: str, values: dict[str, str]) -> None:
    end = _island_end(network, name)
    for value in end:
        values.setdefault(value, end[-1])


def _island_end(network: Network, name: str) -> list[str]:
    """The values to quantize behind a layer, which share the range of the last one."""
    path = [name]
    while (reader := _only_reader(network, path[-1])) is not None:
        if _is_cut_off_by_integers(reader.layer):
            return [reader.name] if len(path) == 1 else [*path, reader.name]
        if not isinstance(reader.layer, _MAXIMUM):
            break
        path.append(reader.name)
    return [name]


def _is_cut_off_by_integers(layer: Layer) -> bool:
    """Whether integers that span what the layer puts out do all that it does."""
    return isinstance(layer, ReLU) or (isinstance(layer, Clip) and layer.low == 0)


def _only_reader(network: Network, name: str) -> Node | None:
    readers = [node for node in network.nodes if name in node.inputs]
    is_read_outside = name in network.outputs.values()
    return readers[0] if len(readers) == 1 and not is_read_outside else None


def _is_nothing(node: Node | None) -> bool:
    return node is not None and isinstance(node.layer, _NOTHING_ON_EXPORT)
