"""Convolution, pooling and what goes with them."""

from __future__ import annotations

from typing import Any

from torch import nn

from hlserve.nn.layers import Conv2d, MaxPool2d


def _sizes(layer: Any) -> dict[str, Any]:
    """The constructor's arguments with sizes as PyTorch takes them."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in layer.config().items()}


COUNTERPARTS: dict[type, Any] = {
    Conv2d: lambda layer, shapes: nn.Conv2d(**_sizes(layer)),
    MaxPool2d: lambda layer, shapes: nn.MaxPool2d(**_sizes(layer)),
}
