"""Convolution, pooling and what goes with them."""

from __future__ import annotations

from hlserve.nn.layers import Conv2d, MaxPool2d
from tests.nn.cases.case import Case

CASES = (
    Case("conv 3x3", lambda: Conv2d(2, 3, 3), ((2, 6, 7),)),
    Case("conv 1x1", lambda: Conv2d(3, 2, 1), ((3, 4, 5),)),
    Case("conv same padding", lambda: Conv2d(2, 4, 5, padding=2), ((2, 6, 5),)),
    Case("conv stride 2", lambda: Conv2d(2, 3, 3, stride=2, padding=1), ((2, 8, 7),)),
    Case("conv 1x1 stride 2", lambda: Conv2d(2, 3, 1, stride=2), ((2, 5, 6),)),
    Case("conv pairs", lambda: Conv2d(1, 2, (2, 5), (3, 2), (1, 0)), ((1, 9, 8),)),
    Case("conv wide padding", lambda: Conv2d(1, 2, (2, 3), 2, (3, 4)), ((1, 4, 3),)),
    Case("conv whole input", lambda: Conv2d(2, 3, (4, 3)), ((2, 4, 3),)),
    Case("max pool", lambda: MaxPool2d(2), ((3, 6, 4),)),
    Case("max pool odd sizes", lambda: MaxPool2d(2), ((2, 7, 5),)),
    Case("max pool overlapping", lambda: MaxPool2d(3, 2), ((2, 7, 8),)),
    Case("max pool with gaps", lambda: MaxPool2d(2, 3), ((2, 8, 7),)),
    Case("max pool pairs", lambda: MaxPool2d((1, 3), (2, 1)), ((2, 5, 6),)),
)
