"""Fully connected layers, embeddings and normalization over features."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hlserve.nn.layers import Embedding, LayerNorm, Linear


class _Embedding(nn.Embedding):
    """With the row of the padding at zero, which PyTorch only leaves as it is."""

    def forward(self, ids: Any) -> Any:
        if self.padding_idx is not None:
            with torch.no_grad():
                self.weight[self.padding_idx] = 0
        return super().forward(ids)


COUNTERPARTS: dict[type, Any] = {
    Embedding: lambda layer, shapes: _Embedding(layer.n_embeddings, layer.dim, layer.padding_id),
    LayerNorm: lambda layer, shapes: nn.LayerNorm(layer.features, layer.epsilon),
    Linear: lambda layer, shapes: nn.Linear(layer.in_features, layer.out_features, layer.has_bias),
}
