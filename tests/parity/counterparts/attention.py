"""Attention, and what a transformer block is made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hlserve.nn.layers import (
    LearnedPositions,
    MaxOverTime,
    MeanOverTime,
    MultiHeadAttention,
)


class _SelfAttention(nn.Module):
    """Queries, keys and values from one x; PyTorch's mask says what to leave out."""

    def __init__(self, layer: MultiHeadAttention) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(
            layer.dim, layer.n_heads, bias=layer.has_bias, batch_first=True
        )

    def forward(self, x: Any, mask: Any = None) -> Any:
        padding = None if mask is None else mask == 0
        return self.attention(x, x, x, key_padding_mask=padding, need_weights=False)[0]


class _LearnedPositions(nn.Module):
    def __init__(self, layer: LearnedPositions) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(layer.time, layer.dim))

    def forward(self, x: Any) -> Any:
        return x + self.table


class _Mean(nn.Module):
    def forward(self, x: Any, mask: Any = None) -> Any:
        if mask is None:
            return x.mean(dim=1)
        rows = [row[is_step == 1].mean(dim=0) for row, is_step in zip(x, mask, strict=True)]
        return torch.stack(rows)


class _Max(nn.Module):
    def forward(self, x: Any, mask: Any = None) -> Any:
        if mask is None:
            return x.max(dim=1).values
        rows = [row[is_step == 1].max(dim=0).values for row, is_step in zip(x, mask, strict=True)]
        return torch.stack(rows)


COUNTERPARTS: dict[type, Any] = {
    LearnedPositions: lambda layer, shapes: _LearnedPositions(layer),
    MaxOverTime: lambda layer, shapes: _Max(),
    MeanOverTime: lambda layer, shapes: _Mean(),
    MultiHeadAttention: lambda layer, shapes: _SelfAttention(layer),
}
