"""Layers that re-index rows."""

from __future__ import annotations

from typing import Any

from torch import nn

from hlserve.nn.layers import Flatten, Reshape

COUNTERPARTS: dict[type, Any] = {
    Flatten: lambda layer, shapes: nn.Flatten(),
    Reshape: lambda layer, shapes: (
        nn.Unflatten(1, layer.shape) if len(shapes[0]) == 1 else nn.Flatten()
    ),
}
