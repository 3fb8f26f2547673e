"""A network without a node that its neighbours have taken over."""

from __future__ import annotations

from dataclasses import replace

from hlserve.nn.network import Network, Node


def without(network: Network, node: Node) -> Network:
    """What read the node of one input reads that input; parameters stay those of ``network``."""
    (source,) = node.inputs

    def rewired(name: str) -> str:
        return source if name == node.name else name

    return Network(
        network.inputs,
        [
            replace(other, inputs=tuple(rewired(name) for name in other.inputs))
            for other in network.nodes
            if other is not node
        ],
        {output: rewired(name) for output, name in network.outputs.items()},
        task=network.task,
        class_labels=network.class_labels,
    )
