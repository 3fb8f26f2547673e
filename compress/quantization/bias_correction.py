"""The mean shift that rounding the weights gives each output, taken out of the biases."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hlserve.nn.layers import Conv1d, Conv2d
from hlserve.nn.network import Network, Node
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace

KEPT_BYTES = 1 << 29  # of activations at a time; a large network is corrected on fewer rows


def rows_that_fit(network: Network) -> int:
    """How many rows ``corrected_biases`` may keep, twice, at its widest place."""
    alive, widest = {entry.name for entry in network.inputs}, 0
    for node, gone in _last_reads(network):
        alive.add(node.name)
        widest = max(widest, sum(int(np.prod(network.shapes[name])) for name in alive))
        alive -= gone
    return max(1, KEPT_BYTES // (2 * network.dtype.itemsize * max(1, widest)))


def corrected_biases(
    network: Network,
    rounded: Network,
    names: Collection[str],
    batches: Sequence[Mapping[str, Array]],
) -> dict[str, Array]:
    """The biases of some nodes that keep every output's mean, each after those ahead of it.

    Both networks are walked together once, node by node, over all batches.

    Args:
        network: in floats.
        rounded: the same with the weights that integers stand for.
        names: of nodes whose weights are rounded; those without bias are left out.
        batches: rows by input name, batch-first.
    """
    inputs = [entry.name for entry in network.inputs]
    walks = [
        _Walk(network.activations(rows, inputs), rounded.activations(rows, inputs))
        for rows in batches
    ]
    found: dict[str, Array] = {}
    for node, gone in _last_reads(network):
        for walk in walks:
            walk.step(node, rounded.node(node.name))
        bias = node.layer.params().get("bias")
        if node.name in names and bias is not None:
            axis = 0 if isinstance(node.layer, Conv1d | Conv2d) else -2
            shift = _mean([w.rounded[node.name] for w in walks], axis)
            shift -= _mean([w.plain[node.name] for w in walks], axis)
            found[node.name] = bias.value - shift.astype(bias.value.dtype)
            for walk in walks:
                np.moveaxis(walk.rounded[node.name], axis, -1)[...] -= shift
        for walk in walks:
            walk.forget(gone)
    return found


# ----- below


@dataclass(frozen=True, slots=True)
class _Walk:
    """The activations of one batch that are still to be read, in floats and rounded."""

    plain: dict[str, Array]
    rounded: dict[str, Array]

    def step(self, node: Node, rounded: Node) -> None:
        for values, layer in ((self.plain, node.layer), (self.rounded, rounded.layer)):
            inputs = [values[name] for name in node.inputs]
            y, _ = layer.forward(*inputs, training=False, workspace=Workspace())
            is_view = any(np.may_share_memory(y, x) for x in inputs)
            values[node.name] = y.copy() if is_view else y

    def forget(self, names: Collection[str]) -> None:
        for name in names:
            del self.plain[name], self.rounded[name]


def _last_reads(network: Network) -> list[tuple[Node, set[str]]]:
    """Every node, and the values that nothing behind it reads."""
    found, read = [], set[str]()
    for node in reversed(network.nodes):
        gone = {node.name, *node.inputs} - read
        read |= {node.name, *node.inputs}
        found.append((node, gone))
    return found[::-1]


def _mean(parts: Sequence[Array], axis: int) -> Array:
    """Of every channel over all rows and places."""
    total, count = 0.0, 0
    for values in parts:
        channels = np.moveaxis(values, axis, 0)
        flat = channels.reshape(len(channels), -1)
        total = total + flat.sum(axis=1, dtype=np.float64)
        count += flat.shape[1]
    return np.asarray(total / count)
