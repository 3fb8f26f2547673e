"""Fully connected layers, embeddings and normalization over features."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hlserve.nn.layers import Affine, Embedding, LayerNorm, Linear


class _Embedding(nn.Embedding):
    """With the row of the padding at zero, which PyTorch only leaves as it is."""

    def forward(self, ids: Any) -> Any:
        if self.padding_idx is not None:
            with torch.no_grad():
                self.weight[self.padding_idx] = 0
        return super().forward(ids)


class _Affine(nn.Module):
    def __init__(self, channels: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.scale, self.bias = (nn.Parameter(torch.zeros(channels)) for _ in range(2))
        self.shape = shape

    def forward(self, x: Any) -> Any:
        return x * self.scale.reshape(self.shape) + self.bias.reshape(self.shape)


def _affine(layer: Any, shapes: Any) -> Any:
    n_axes = len(shapes[0])
    return _Affine(layer.channels, tuple(-1 if i == layer.axis else 1 for i in range(n_axes)))


COUNTERPARTS: dict[type, Any] = {
    Affine: _affine,
    Embedding: lambda layer, shapes: _Embedding(layer.n_embeddings, layer.dim, layer.padding_id),
    LayerNorm: lambda layer, shapes: nn.LayerNorm(layer.features, layer.epsilon),
    Linear: lambda layer, shapes: nn.Linear(layer.in_features, layer.out_features, layer.has_bias),
}
