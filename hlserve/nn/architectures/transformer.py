"""``transformer:64,4,2``: an encoder of this dim, with so many heads and blocks, over sequences."""

from __future__ import annotations

from hlserve.errors import ConfigError
from hlserve.nn.architectures.family import Draft, Family, Spec
from hlserve.nn.layer import Shape
from hlserve.nn.layers import Reshape
from hlserve.nn.transformer import transformer_encoder


def _row_shape(spec: Spec) -> Shape:
    """As the data's: sequences, ids, or a grey image, whose rows are the steps."""
    is_grey = len(spec.input_shape) == 3 and spec.input_shape[0] == 1
    if len(spec.input_shape) == 2 or is_grey or spec.n_ids is not None:
        return spec.input_shape
    raise ConfigError(
        f"architecture {spec.text!r} expects rows of shape (time, features) or (1, height, "
        f"width), the rows have shape {spec.input_shape}"
    )


def _hidden(spec: Spec, draft: Draft, value: str) -> str:
    shape = spec.input_shape
    if len(shape) == 3:
        shape = shape[1:]
        value = draft.add(Reshape(shape), value)
    nodes = transformer_encoder(
        spec.text, value, shape, spec.n_outputs, n_embeddings=spec.n_ids, mask=draft.mask
    )
    draft.nodes += nodes
    return nodes[-1].name


TRANSFORMER = Family(
    "transformer", "transformer:64,4,2 (dim, heads, blocks)", _row_shape, _hidden, True
)
