"""What a handler gives for a tensor: the layers that make it, or why there are none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compress.onnx_import.graph import Graph
from hlserve.nn.layer import Layer
from hlserve.nn.network import Node


@dataclass(frozen=True, slots=True)
class Piece:
    """The layers behind one tensor of the ONNX graph.

    Attributes:
        inputs: the tensors that are read.
        nodes: their inputs name tensors or earlier nodes of this piece; the last one answers
            the tensor and has its name. Without nodes the only input is handed on.
    """

    inputs: tuple[str, ...]
    nodes: tuple[Node, ...] = ()


# A handler looks at the operator that makes a tensor, and what stands before it: None where it
# is not the handler's; raises RefusalError where it is, but no layer does what it does.
Handler = Callable[[Graph, str], Piece | None]


def chain(tensor: str, inputs: Sequence[str], *layers: Layer) -> Piece:
    """Layers one behind the other; the first reads all the inputs."""
    nodes: list[Node] = []
    read = tuple(inputs)
    for i, layer in enumerate(layers):
        name = tensor if i == len(layers) - 1 else inner(tensor, i)
        nodes.append(Node(name, layer, read))
        read = (name,)
    return Piece(tuple(inputs), tuple(nodes))


def inner(tensor: str, i: int) -> str:
    """A name for a node within the piece of a tensor; no tensor has it."""
    return f"{tensor}\n{i}"
