"""Fully connected layers, embeddings and normalization over features."""

from __future__ import annotations

from hlserve.nn.layers import Affine, Embedding, LayerNorm, Linear
from tests.nn.cases.case import Case, ids

CASES = (
    Case("linear", lambda: Linear(7, 5), ((7,),)),
    Case("linear to one", lambda: Linear(4, 1), ((4,),)),
    Case("linear without bias", lambda: Linear(6, 4, has_bias=False), ((6,),)),
    Case("linear over time", lambda: Linear(4, 6), ((5, 4),)),
    Case("linear over one step", lambda: Linear(4, 3), ((1, 4),)),
    Case("linear over time without bias", lambda: Linear(3, 5, has_bias=False), ((4, 3),)),
    Case("embedding", lambda: Embedding(9, 4), ((5,),), (ids(9),)),
    Case("embedding of few ids", lambda: Embedding(2, 3), ((7,),), (ids(2),)),
    Case("embedding with padding", lambda: Embedding(6, 4, padding_id=0), ((5,),), (ids(6),)),
    Case("embedding of single ids", lambda: Embedding(8, 5), ((),), (ids(8),)),
    Case("affine", lambda: Affine(7), ((7,),)),
    Case("affine over time", lambda: Affine(6, axis=1), ((4, 6),)),
    Case("affine over channels", lambda: Affine(4), ((4, 5),)),
    Case("affine image", lambda: Affine(3), ((3, 2, 4),)),
    Case("linear over places", lambda: Linear(4, 3), ((2, 3, 4),)),
    Case("layer norm over places", lambda: LayerNorm(4), ((2, 3, 4),)),
    Case("layer norm", lambda: LayerNorm(7), ((7,),)),
    Case("layer norm over time", lambda: LayerNorm(6, 1e-3), ((4, 6),)),
    Case("layer norm over one step", lambda: LayerNorm(5), ((1, 5),)),
)
