"""Reshapes of reshapes, which exporters write where they count axes, made one or none."""

from __future__ import annotations

from dataclasses import replace

from hlserve.nn.layers import Flatten, Reshape
from hlserve.nn.network import Network, Node


def without_detours(network: Network) -> Network:
    """The same network in which no reshape reads another, and none keeps the shape."""
    given = {entry.name for entry in network.inputs}
    nodes: dict[str, Node] = {}
    same_as: dict[str, str] = {}
    for node in network.nodes:
        inputs = tuple(same_as.get(name, name) for name in node.inputs)
        if _only_reshapes(node):
            source = inputs[0]
            while source in nodes and _only_reshapes(nodes[source]):
                source = nodes[source].inputs[0]
            inputs = (source,)
            if network.shapes[source] == network.shapes[node.name] and source not in given:
                same_as[node.name] = source
                continue
        nodes[node.name] = replace(node, inputs=inputs)
    outputs = {name: same_as.get(node, node) for name, node in network.outputs.items()}
    for name in reversed(list(nodes)):
        if name not in outputs.values() and not any(name in node.inputs for node in nodes.values()):
            del nodes[name]
    if len(nodes) == len(network.nodes):
        return network
    return Network(network.inputs, list(nodes.values()), outputs, task=network.task)


# ----- below


def _only_reshapes(node: Node) -> bool:
    return isinstance(node.layer, (Flatten, Reshape))
