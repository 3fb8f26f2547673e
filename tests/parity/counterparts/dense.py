"""Fully connected layers."""

from __future__ import annotations

from typing import Any

from torch import nn

from hlserve.nn.layers import Linear

COUNTERPARTS: dict[type, Any] = {
    Linear: lambda layer, shapes: nn.Linear(**layer.config()),
}
