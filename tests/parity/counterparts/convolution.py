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
    ConvTranspose2d,
    GlobalAvgPool,
    GroupNorm,
    MaxPool1d,
    MaxPool2d,
)

_NAMES = {"has_bias": "bias", "counts_padding": "count_include_pad"}


def _sizes(layer: Any) -> dict[str, Any]:
    """The constructor's arguments with sizes and names as PyTorch takes them."""
    config = {k: tuple(v) if isinstance(v, list) else v for k, v in layer.config().items()}
    return {_NAMES.get(name, name): value for name, value in config.items()}


def _padded_apart(kind: Any, fill: float = 0.0) -> Any:
    """PyTorch's own padding where both sides have the same, else a module before it."""

    def make(layer: Any, shapes: Any) -> Any:
        above, left, below, right = layer.window.pads
        if layer.window.padding_after is None:
            return kind(**_sizes(layer))
        module = kind(**{**_sizes(layer), "padding": 0})
        if len(shapes[0]) == 2:  # (channels, length)
            return nn.Sequential(nn.ConstantPad1d((left, right), fill), module)
        return nn.Sequential(nn.ConstantPad2d((left, right, above, below), fill), module)

    return make


def _average(kind: Any) -> Any:
    """Behind the end as PyTorch's ceil_mode has it, which a layer says with padding there."""

    def make(layer: Any, shapes: Any) -> Any:
        if layer.window.padding_after is None:
            return kind(**_sizes(layer))
        return kind(**{**_sizes(layer), "padding": 0}, ceil_mode=True)

    return make


def _batch_norm(layer: Any, shapes: Any) -> Any:
    kind = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d}[len(shapes[0])]
    return kind(layer.channels, layer.epsilon, layer.momentum)


def _global_average(layer: Any, shapes: Any) -> Any:
    pool = nn.AdaptiveAvgPool1d(1) if len(shapes[0]) == 2 else nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(pool, nn.Flatten())


COUNTERPARTS: dict[type, Any] = {
    AvgPool1d: _average(nn.AvgPool1d),
    AvgPool2d: _average(nn.AvgPool2d),
    BatchNorm: _batch_norm,
    Conv1d: _padded_apart(nn.Conv1d),
    Conv2d: _padded_apart(nn.Conv2d),
    ConvTranspose2d: lambda layer, shapes: nn.ConvTranspose2d(**_sizes(layer)),
    GlobalAvgPool: _global_average,
    GroupNorm: lambda layer, shapes: nn.GroupNorm(layer.groups, layer.channels, layer.epsilon),
    MaxPool1d: _padded_apart(nn.MaxPool1d, -float("inf")),
    MaxPool2d: _padded_apart(nn.MaxPool2d, -float("inf")),
}
