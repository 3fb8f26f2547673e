"""Layers that re-index rows."""

from __future__ import annotations

from hlserve.nn.layers import Flatten, Pad, Reshape, Slice, Transpose
from tests.nn.cases.case import Case

CASES = (
    Case("flatten image", lambda: Flatten(), ((2, 3, 4),)),
    Case("flatten vector", lambda: Flatten(), ((6,),)),
    Case("reshape to image", lambda: Reshape((2, 3, 4)), ((24,),)),
    Case("reshape free channels", lambda: Reshape((-1, 2, 2)), ((12,),)),
    Case("reshape free features", lambda: Reshape((2, 3, -1)), ((6, 4),)),
    Case("transpose image", lambda: Transpose((1, 2, 0)), ((2, 3, 4),)),
    Case("transpose back", lambda: Transpose((2, 0, 1)), ((3, 4, 2),)),
    Case("transpose series", lambda: Transpose(), ((3, 5),)),
    Case("pad image", lambda: Pad((1, 0, 2, 3)), ((2, 3, 4),)),
    Case("pad series", lambda: Pad([0, 2], -1.5), ((3, 4),)),
    Case("slice channels", lambda: Slice(1, 3), ((4, 2, 3),)),
    Case("slice places", lambda: Slice(0, 5, 2, 2), ((2, 3, 5),)),
    Case("slice features", lambda: Slice(2, 5), ((6,),)),
    Case("slice steps", lambda: Slice(1, 4), ((5, 3),)),
    Case("reshape to vector", lambda: Reshape([-1]), ((3, 2, 2),)),
)
