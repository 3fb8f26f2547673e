"""Layers that re-index rows."""

from __future__ import annotations

from hlserve.nn.layers import Flatten, Reshape
from tests.nn.cases.case import Case

CASES = (
    Case("flatten image", lambda: Flatten(), ((2, 3, 4),)),
    Case("flatten vector", lambda: Flatten(), ((6,),)),
    Case("reshape to image", lambda: Reshape((2, 3, 4)), ((24,),)),
    Case("reshape free channels", lambda: Reshape((-1, 2, 2)), ((12,),)),
    Case("reshape to vector", lambda: Reshape([-1]), ((3, 2, 2),)),
)
