"""Names what became NaN or infinite first."""

from __future__ import annotations

from typing import Literal

import numpy as np

from hlserve.nn.network import Network
from hlserve.nn.param import Array

ROWS_TO_NAME = 256  # rows that are run again to find the layer that diverged


def first_layer_not_finite(network: Network, inputs: dict[str, Array]) -> str:
    """Says which layer first gives NaN or infinity for these rows."""
    names = [node.name for node in network.nodes]
    with np.errstate(all="ignore"):  # it overflows again, which is what is looked for
        values = network.activations(inputs, names)
    for node in network.nodes:
        if not np.isfinite(values[node.name]).all():
            kind = type(node.layer).__name__
            return f"layer {node.name!r} ({kind}) is the first whose output is not finite"
    return "every layer's output is finite, so it arose in the loss"


def first_param_not_finite(network: Network, kind: Literal["value", "grad"]) -> str:
    """Names the first parameter whose value or gradient is not finite; "" where all are."""
    for name, param in network.params().items():
        array: Array = getattr(param, kind)
        # min and max pass NaN on, and allocate nothing.
        if param.is_trained and not np.isfinite([array.min(), array.max()]).all():
            return f"parameter {name!r}"
    return ""
