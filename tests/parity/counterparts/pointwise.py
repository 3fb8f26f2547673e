"""Layers that work number by number, and Softmax."""

from __future__ import annotations

from typing import Any

from torch import nn

from hlserve.nn.layers import Dropout, ReLU, Sigmoid, Softmax, Tanh

COUNTERPARTS: dict[type, Any] = {
    Dropout: lambda layer, shapes: nn.Dropout(layer.rate),
    ReLU: lambda layer, shapes: nn.ReLU(),
    Sigmoid: lambda layer, shapes: nn.Sigmoid(),
    Softmax: lambda layer, shapes: nn.Softmax(dim=1),
    Tanh: lambda layer, shapes: nn.Tanh(),
}
