"""THE table of layers: a row a layer, or one for every kind of geometry it has."""

from tests.nn.cases import (
    attention,
    convolution,
    dense,
    merge,
    pointwise,
    preprocessing,
    recurrent,
    shape,
)
from tests.nn.cases.case import Case as Case

CASES = (
    *dense.CASES,
    *convolution.CASES,
    *shape.CASES,
    *pointwise.CASES,
    *merge.CASES,
    *recurrent.CASES,
    *attention.CASES,
    *preprocessing.CASES,
)
