"""Layers that work number by number, and Softmax."""

from __future__ import annotations

from typing import Any

from torch import nn

from hlserve.nn.layers import (
    ELU,
    GELU,
    Dropout,
    HardSwish,
    LeakyReLU,
    PReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)


class _PReLU(nn.PReLU):
    """With the channels on any axis; PyTorch's stand behind the batch."""

    def __init__(self, channels: int, axis: int) -> None:
        super().__init__(channels)
        self.axis = axis + 1

    def forward(self, x: Any) -> Any:
        return super().forward(x.transpose(1, self.axis)).transpose(1, self.axis)


COUNTERPARTS: dict[type, Any] = {
    Dropout: lambda layer, shapes: nn.Dropout(layer.rate),
    ELU: lambda layer, shapes: nn.ELU(layer.alpha),
    GELU: lambda layer, shapes: nn.GELU(layer.approximate),
    HardSwish: lambda layer, shapes: nn.Hardswish(),
    LeakyReLU: lambda layer, shapes: nn.LeakyReLU(layer.slope),
    PReLU: lambda layer, shapes: _PReLU(layer.channels, layer.axis),
    ReLU: lambda layer, shapes: nn.ReLU(),
    Sigmoid: lambda layer, shapes: nn.Sigmoid(),
    SiLU: lambda layer, shapes: nn.SiLU(),
    Softmax: lambda layer, shapes: nn.Softmax(dim=1),
    Softplus: lambda layer, shapes: nn.Softplus(threshold=1e3),  # the formula, not x above 20
    Tanh: lambda layer, shapes: nn.Tanh(),
}
