"""Layers that take raw values."""

from __future__ import annotations

from hlserve.nn.layers import Scale, Standardize
from tests.nn.cases.case import Case

CASES = (
    Case("scale", lambda: Scale(0.25), ((9,),)),
    Case("scale and shift image", lambda: Scale(1 / 255, -0.5), ((1, 3, 4),)),
    Case("standardize", lambda: Standardize([1.0, -2.0, 0.5], [2.0, 0.0, 0.1]), ((3,),)),
    Case("standardize series", lambda: Standardize([1.0, -2.0], [2.0, 3.0]), ((4, 2),)),
)
