"""THE table of PyTorch's counterparts: layer class -> what makes the module for a case's layer.

A module takes the inputs of the case in their order, batch-first, and holds its parameters in
the order of the layer's own; one that orders them otherwise is wrapped in one that does not.
"""

from collections.abc import Callable
from typing import Any

from hlserve.nn.layer import Layer
from hlserve.nn.layers import (
    ArgMax,
    Impute,
    OneHot,
    PaddingMask,
    PositionalEncoding,
    Scale,
    Standardize,
)
from tests.parity.counterparts import (
    attention,
    convolution,
    dense,
    merge,
    pointwise,
    recurrent,
    shape,
)

Counterpart = Callable[[Any, tuple[tuple[int, ...], ...]], Any]  # of a layer and its shapes

COUNTERPARTS: dict[type[Layer], Counterpart] = {
    **dense.COUNTERPARTS,
    **convolution.COUNTERPARTS,
    **shape.COUNTERPARTS,
    **pointwise.COUNTERPARTS,
    **merge.COUNTERPARTS,
    **recurrent.COUNTERPARTS,
    **attention.COUNTERPARTS,
}

# Plain arithmetic that PyTorch has no module for; the case table has its oracle.
WITHOUT_COUNTERPART: tuple[type[Layer], ...] = (
    ArgMax,
    Impute,
    OneHot,
    PaddingMask,
    PositionalEncoding,
    Scale,
    Standardize,
)
