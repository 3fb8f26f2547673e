"""Transformer encoders: nodes for the graph of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hlserve.errors import ConfigError
from hlserve.nn.layer import Layer, Shape
from hlserve.nn.layers import (
    GELU,
    Add,
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    MeanOverTime,
    MultiHeadAttention,
    PositionalEncoding,
)
from hlserve.nn.network import Node

_HIDDEN_PER_DIM = 4  # Vaswani et al. 2017, table 3: 2,048 for a dim of 512
_DROPOUT = 0.1  # the same table
PADDING_ID = 0


def encoder_block(
    name: str,
    source: str,
    dim: int,
    n_heads: int,
    *,
    hidden: int | None = None,
    dropout: float = 0.0,
    mask: str | None = None,
) -> list[Node]:
    """One block of a transformer encoder: x + attention(norm(x)), then the same with two Linear.

    Vaswani et al. 2017, arXiv:1706.03762, section 3.1, with the normalization ahead of each
    half (Xiong et al. 2020, arXiv:2002.04745), which trains without a warm-up, and GELU.

    Args:
        name: begins every node's name.
        source: the input or node that gives (time, dim) rows.
        dim: features of a step, kept.
        n_heads: of the attention; a divisor of ``dim``.
        hidden: units between the two Linear; 4 ``dim`` by default.
        dropout: rate behind the attention, behind GELU and behind the second Linear.
        mask: the input or node that gives (time,) rows of 1 and then 0; none by default.

    Returns:
        Nodes in order, to be put into a ``Network`` behind ``source``; the last is the block's
        output.

    Raises:
        ConfigError: the sizes do not fit each other.
    """
    hidden = _HIDDEN_PER_DIM * dim if hidden is None else hidden
    attention = Node(
        f"{name}_attention",
        MultiHeadAttention(dim, n_heads),
        (f"{name}_norm_1",) if mask is None else (f"{name}_norm_1", mask),
    )
    nodes = [Node(f"{name}_norm_1", LayerNorm(dim), (source,)), attention]
    nodes += _chain(attention.name, {f"{name}_dropout_1": Dropout(dropout)})
    middle = f"{name}_add_1"
    nodes.append(Node(middle, Add(), (source, nodes[-1].name)))
    widening: dict[str, Layer] = {
        f"{name}_norm_2": LayerNorm(dim),
        f"{name}_linear_1": Linear(dim, hidden),
        f"{name}_gelu": GELU(),
        f"{name}_dropout_2": Dropout(dropout),
        f"{name}_linear_2": Linear(hidden, dim),
        f"{name}_dropout_3": Dropout(dropout),
    }
    nodes += _chain(middle, widening)
    return [*nodes, Node(f"{name}_add_2", Add(), (middle, nodes[-1].name))]


def transformer_encoder(
    spec: str,
    source: str,
    input_shape: Shape,
    n_outputs: int,
    *,
    n_embeddings: int | None = None,
    mask: str | None = None,
) -> list[Node]:
    """What a spec such as ``transformer:64,4,2`` stands for: dim, heads and blocks.

    A Linear to ``dim`` features, sines as positions, encoder blocks with a dropout of 0.1,
    LayerNorm, the mean over time, and a Linear to the outputs. Rows of ids go through an
    Embedding instead of the first Linear, whose ``padding_id`` is 0.

    Args:
        spec: see above.
        source: the input or node that gives the rows.
        input_shape: (time, features), or (time,) for ids.
        n_outputs: numbers that the last node gives.
        n_embeddings: how many ids there are; for rows of ids, and only for these.
        mask: the input or node that gives (time,) rows of 1 and then 0; none by default.

    Returns:
        Nodes in order; the last one gives the raw outputs.

    Raises:
        ConfigError: the spec says something else, or the rows are no sequences.
    """
    dim, n_heads, n_blocks = _sizes(spec)
    first = _first(spec, input_shape, dim, n_embeddings)
    nodes = _chain(source, {"steps": first, "positions": PositionalEncoding(input_shape[0], dim)})
    for block in range(1, n_blocks + 1):
        name = f"block_{block}"
        nodes += encoder_block(name, nodes[-1].name, dim, n_heads, dropout=_DROPOUT, mask=mask)
    nodes += _chain(nodes[-1].name, {"norm": LayerNorm(dim)})
    steps = (nodes[-1].name,) if mask is None else (nodes[-1].name, mask)
    nodes.append(Node("mean", MeanOverTime(), steps))
    return [*nodes, *_chain("mean", {"head": Linear(dim, n_outputs)})]


def _chain(source: str, layers: Mapping[str, Layer]) -> list[Node]:
    """Layers by name, one after another; a Dropout of nothing is left out."""
    nodes: list[Node] = []
    for name, layer in layers.items():
        if isinstance(layer, Dropout) and layer.rate == 0:
            continue
        nodes.append(Node(name, layer, (nodes[-1].name if nodes else source,)))
    return nodes


def _first(spec: str, shape: Sequence[int], dim: int, n_embeddings: int | None) -> Layer:
    if len(shape) == 2 and n_embeddings is None:
        return Linear(shape[1], dim)
    if len(shape) == 1 and n_embeddings is not None:
        return Embedding(n_embeddings, dim, PADDING_ID)
    raise ConfigError(
        f"architecture {spec!r} expects sequences (time, features), or ids (time,) and how many "
        f"there are, the rows have shape {tuple(shape)} and n_embeddings is {n_embeddings}"
    )


def _sizes(spec: str) -> tuple[int, int, int]:
    words = spec.partition(":")[2].split(",")
    if len(words) != 3 or not all(w.strip().isdecimal() and int(w) > 0 for w in words):
        raise ConfigError(
            f"architecture {spec!r}: expected dim, heads and blocks, as in transformer:64,4,2"
        )
    dim, n_heads, n_blocks = (int(word) for word in words)
    return dim, n_heads, n_blocks
