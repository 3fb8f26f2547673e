"""``mlp:300,100``: dense layers of these sizes, each with a ReLU."""

from __future__ import annotations

from math import prod

from hlserve.nn.architectures.family import Draft, Family, Spec, sizes
from hlserve.nn.layer import Shape
from hlserve.nn.layers import Linear, ReLU


def _row_shape(spec: Spec) -> Shape:
    return (prod(spec.input_shape),)


def _hidden(spec: Spec, draft: Draft, value: str) -> str:
    n_features = prod(spec.input_shape)
    expected = "the sizes of the hidden layers, as in mlp:300,100"
    for size in sizes(spec, spec.arguments, of=expected):
        value = draft.chain([Linear(n_features, size), ReLU()], value)
        n_features = size
    return draft.add(Linear(n_features, spec.n_outputs), value)


MLP = Family("mlp", "mlp:300,100 (one number a hidden layer)", _row_shape, _hidden)
