"""Layers that work number by number, and Softmax."""

from __future__ import annotations

from typing import Any

from torch import nn

from hlserve.nn.layers import (
    ELU,
    GELU,
    Clip,
    Dropout,
    HardSigmoid,
    HardSwish,
    LeakyReLU,
    LogSoftmax,
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


class _HardSigmoid(nn.Module):
    """With any slope; PyTorch's is 1/6, rounded to float32."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Any) -> Any:
        return (self.slope * x + 0.5).clamp(0, 1)


COUNTERPARTS: dict[type, Any] = {
    Clip: lambda layer, shapes: nn.Hardtanh(layer.low, layer.high),
    Dropout: lambda layer, shapes: nn.Dropout(layer.rate),
    ELU: lambda layer, shapes: nn.ELU(layer.alpha),
    GELU: lambda layer, shapes: nn.GELU(layer.approximate),
    HardSigmoid: lambda layer, shapes: _HardSigmoid(layer.slope),
    HardSwish: lambda layer, shapes: nn.Hardswish(),
    LeakyReLU: lambda layer, shapes: nn.LeakyReLU(layer.slope),
    LogSoftmax: lambda layer, shapes: nn.LogSoftmax(dim=1),
    PReLU: lambda layer, shapes: _PReLU(layer.channels, layer.axis),
    ReLU: lambda layer, shapes: nn.ReLU(),
    Sigmoid: lambda layer, shapes: nn.Sigmoid(),
    SiLU: lambda layer, shapes: nn.SiLU(),
    Softmax: lambda layer, shapes: nn.Softmax(dim=1),
    Softplus: lambda layer, shapes: nn.Softplus(threshold=1e3),  # the formula, not x above 20
    Tanh: lambda layer, shapes: nn.Tanh(),
}
