"""``mlp:300,100``: dense layers of these sizes, each with a ReLU.

Of ids of words the first layer is an embedding of that size, whose mean over the steps the next
layers read: the bag of words of Joulin et al. 2017, arXiv:1607.01759.
"""

from __future__ import annotations

from math import prod

from hlserve.nn.architectures.family import Draft, Family, Spec, sizes
from hlserve.nn.layer import Shape
from hlserve.nn.layers import Embedding, Linear, MeanOverTime, ReLU


def _row_shape(spec: Spec) -> Shape:
    return (prod(spec.input_shape),)


def _hidden(spec: Spec, draft: Draft, value: str) -> str:
    widths = sizes(spec, spec.arguments, of="the sizes of the hidden layers, as in mlp:300,100")
    n_features = prod(spec.input_shape)
    if spec.n_ids is not None:
        n_features = widths.pop(0)
        value = draft.add(Embedding(spec.n_ids, n_features, 0), value)
        value = draft.add(MeanOverTime(), *draft.masked(value))
    for size in widths:
        value = draft.chain([Linear(n_features, size), ReLU()], value)
        n_features = size
    return draft.add(Linear(n_features, spec.n_outputs), value)


MLP = Family("mlp", "mlp:300,100 (one number a hidden layer)", _row_shape, _hidden, True)
