"""What a network's graph is made of, and what can be told of it without running it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.layer import Layer, MaskKind, Shape


@dataclass(frozen=True, slots=True)
class Input:
    """A named input of the network.

    Attributes:
        name: the tensor's name, in the exported file too.
        shape: of one row, without the batch.
        dtype: what the exported file takes: "float32", or "int64" for ids.
        units: what the raw values are, such as "pixels 0..255"; None where unknown.
    """

    name: str
    shape: Shape
    dtype: str = "float32"
    units: str | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A layer in the graph; ``inputs`` name network inputs or earlier nodes."""

    name: str
    layer: Layer
    inputs: tuple[str, ...]


def infer_shapes(
    inputs: Sequence[Input], nodes: Sequence[Node], outputs: Mapping[str, str]
) -> dict[str, Shape]:
    """The shape of one row of every input and node, by name.

    Raises:
        ConfigError: a name is used twice or unknown, or shapes do not fit.
    """
    shapes = {entry.name: entry.shape for entry in inputs}
    for node in nodes:
        if node.name in shapes:
            raise ConfigError(f"two parts of the network are named {node.name!r}")
        unknown = [i for i in node.inputs if i not in shapes]
        if unknown:
            raise ConfigError(f"node {node.name!r} reads {unknown}, which come later or not at all")
        try:
            shapes[node.name] = node.layer.output_shape(*(shapes[i] for i in node.inputs))
        except ConfigError as error:
            raise ConfigError(f"node {node.name!r}: {error}") from error
    for output, node_name in outputs.items():
        if node_name not in shapes:
            raise ConfigError(f"output {output!r} names {node_name!r}, which is not a node")
    return shapes


def values_with_params_upstream(nodes: Iterable[Node]) -> frozenset[str]:
    """The nodes whose gradient is worth having: trained, or behind one that is."""
    learns: set[str] = set()
    for node in nodes:
        is_trained = any(p.is_trained for p in node.layer.params().values())
        if is_trained or any(i in learns for i in node.inputs):
            learns.add(node.name)
    return frozenset(learns)


def id_bounds(inputs: Iterable[Input], nodes: Iterable[Node]) -> dict[str, int]:
    """For every input of ids: what they must lie below to be known to every layer that reads it."""
    bounds = {
        entry.name: [
            node.layer.n_ids
            for node in nodes
            if entry.name in node.inputs and node.layer.n_ids is not None
        ]
        for entry in inputs
        if entry.dtype == "int64"
    }
    return {name: min(known) for name, known in bounds.items() if known}


def masks(inputs: Iterable[Input], nodes: Iterable[Node]) -> dict[str, MaskKind]:
    """The inputs that a layer reads as a mask: a prefix where any of them needs one."""
    found: dict[str, MaskKind] = {}
    for entry in inputs:
        kinds = [node.layer.second_input for node in nodes if node.inputs[1:2] == (entry.name,)]
        if "prefix mask" in kinds:
            found[entry.name] = "prefix mask"
        elif "mask" in kinds:
            found[entry.name] = "mask"
    return found


def scores_of(node: Node) -> str:
    """The node that losses look at: what a closing Softmax or Sigmoid is fed with."""
    return node.inputs[0] if type(node.layer).__name__ in ("Softmax", "Sigmoid") else node.name


def dtype_of(layer: Layer, numbers: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """The type of a layer's output in a network that computes in ``numbers``."""
    return np.dtype(np.int64) if layer.output_dtype == "int64" else numbers


def trained_outputs(outputs: Iterable[str], nodes: Iterable[Node]) -> list[str]:
    """The nodes behind outputs that a loss can look at.

    Not labels beside them, nor scores beside the probabilities that are made of them; all where
    there are no others.
    """
    by_name = {node.name: node for node in nodes}
    ends = list(dict.fromkeys(outputs))
    numbers = [name for name in ends if by_name[name].layer.output_dtype == "float32"] or ends
    scores = {scores_of(by_name[name]) for name in numbers if scores_of(by_name[name]) != name}
    return [name for name in numbers if name not in scores]
