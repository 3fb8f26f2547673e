"""Layers of several inputs."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import nn

from hlserve.nn.layers import Add, Concat, Multiply


class _Merge(nn.Module):
    """A function of several inputs as a module."""

    def __init__(self, merge: Any) -> None:
        super().__init__()
        self.merge = merge

    def forward(self, *inputs: Any) -> Any:
        return self.merge(inputs)


def _spread(x: Any, n: int) -> Any:
    return x.reshape(*x.shape, *(1,) * n)


COUNTERPARTS: dict[type, Any] = {
    Add: lambda layer, shapes: _Merge(lambda xs: reduce(torch.add, xs)),
    Multiply: lambda layer, shapes: _Merge(
        lambda xs: reduce(torch.mul, [xs[0], *(_spread(x, layer.gate_axes) for x in xs[1:])])
    ),
    Concat: lambda layer, shapes: _Merge(lambda xs: torch.cat(xs, dim=layer.axis + 1)),
}
