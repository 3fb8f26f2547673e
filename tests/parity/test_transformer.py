"""A whole encoder block against PyTorch's in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hlserve.nn import Input, Network, encoder_block
from tests.nn.cases.case import prefix_mask

torch = pytest.importorskip("torch")

from tests.parity.test_layers import compare  # noqa: E402  # needs torch


class Block(torch.nn.Module):
    """PyTorch's block with its parameters in the order of ours."""

    def __init__(self, dim: int, n_heads: int, hidden: int) -> None:
        super().__init__()
        block = torch.nn.TransformerEncoderLayer(
            dim, n_heads, hidden, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.norm_1, self.attention, self.norm_2 = block.norm1, block.self_attn, block.norm2
        self.linear_1, self.linear_2 = block.linear1, block.linear2
        self.block = block

    def forward(self, x: Any, mask: Any = None) -> Any:
        return self.block(x, src_key_padding_mask=None if mask is None else mask == 0)


@pytest.mark.parametrize("mask", [None, "mask"])
@pytest.mark.parametrize("n_heads", [1, 4])
def test_a_block_equals_torch(n_heads: int, mask: str | None) -> None:
    entries = [Input("x", (6, 8)), *([Input("mask", (6,), "int64")] if mask else [])]
    nodes = encoder_block("block", "x", 8, n_heads, hidden=12, mask=mask)
    network = Network(entries, nodes, {"y": nodes[-1].name})
    rng = np.random.default_rng(0)
    network.value[...] = 0.5 * rng.standard_normal(network.n_parameters)
    rows = {"x": rng.standard_normal((5, 6, 8)), "mask": prefix_mask(rng, (5, 6))}
    compare(network, Block(8, n_heads, 12), {e.name: rows[e.name] for e in entries})
