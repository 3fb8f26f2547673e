"""Convolution, pooling and what goes with them."""

from __future__ import annotations

from typing import Any

from torch import nn

from hlserve.nn.layers import (
    AvgPool1d,
    AvgPool2d,
    BatchNorm,
    Conv1d,
    Conv2d,
    GlobalAvgPool,
    MaxPool1d,
    MaxPool2d,
)


def _sizes(layer: Any) -> dict[str, Any]:
    """The constructor's arguments with sizes and names as PyTorch takes them."""
    config = {k: tuple(v) if isinstance(v, list) else v for k, v in layer.config().items()}
    return {{"has_bias": "bias"}.get(name, name): value for name, value in config.items()}


def _batch_norm(layer: Any, shapes: Any) -> Any:
    kind = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d}[len(shapes[0])]
    return kind(layer.channels, layer.epsilon, layer.momentum)


def _global_average(layer: Any, shapes: Any) -> Any:
    pool = nn.AdaptiveAvgPool1d(1) if len(shapes[0]) == 2 else nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(pool, nn.Flatten())


COUNTERPARTS: dict[type, Any] = {
    AvgPool1d: lambda layer, shapes: nn.AvgPool1d(**_sizes(layer)),
    AvgPool2d: lambda layer, shapes: nn.AvgPool2d(**_sizes(layer)),
    BatchNorm: _batch_norm,
    Conv1d: lambda layer, shapes: nn.Conv1d(**_sizes(layer)),
    Conv2d: lambda layer, shapes: nn.Conv2d(**_sizes(layer)),
    GlobalAvgPool: _global_average,
    MaxPool1d: lambda layer, shapes: nn.MaxPool1d(**_sizes(layer)),
    MaxPool2d: lambda layer, shapes: nn.MaxPool2d(**_sizes(layer)),
}
