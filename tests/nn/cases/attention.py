"""Attention, and what a transformer block is made of."""

from __future__ import annotations

from hlserve.nn.layers import (
    LearnedPositions,
    MaxOverTime,
    MeanOverTime,
    MultiHeadAttention,
    PositionalEncoding,
)
from tests.nn.cases.case import Case, normal, prefix_mask

MASKED = (normal, prefix_mask)

CASES: tuple[Case, ...] = (
    Case("attention", lambda: MultiHeadAttention(6, 2), ((5, 6),)),
    Case("attention of one head", lambda: MultiHeadAttention(4, 1), ((3, 4),)),
    Case("attention of one step", lambda: MultiHeadAttention(4, 2), ((1, 4),)),
    Case("attention of narrow heads", lambda: MultiHeadAttention(3, 3), ((6, 3),)),
    Case("attention with a mask", lambda: MultiHeadAttention(6, 3), ((5, 6), (5,)), MASKED),
    Case(
        "attention without biases",
        lambda: MultiHeadAttention(4, 2, has_bias=False),
        ((7, 4), (7,)),
        MASKED,
    ),
    Case("positions", lambda: PositionalEncoding(5, 6), ((5, 6),)),
    Case("positions of odd width", lambda: PositionalEncoding(4, 3), ((4, 3),)),
    Case("learned positions", lambda: LearnedPositions(5, 4), ((5, 4),)),
    Case("mean over time", lambda: MeanOverTime(), ((5, 4),)),
    Case("mean over time with a mask", lambda: MeanOverTime(), ((5, 4), (5,)), MASKED),
    Case("mean over one step", lambda: MeanOverTime(), ((1, 4),)),
    Case("max over time", lambda: MaxOverTime(), ((5, 4),)),
    Case("max over time with a mask", lambda: MaxOverTime(), ((5, 4), (5,)), MASKED),
    Case("max over one step", lambda: MaxOverTime(), ((1, 4),)),
)
