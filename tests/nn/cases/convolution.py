"""Convolution, pooling and what goes with them."""

from __future__ import annotations

from hlserve.nn.layers import (
    AvgPool1d,
    AvgPool2d,
    BatchNorm,
    Conv1d,
    Conv2d,
    ConvTranspose2d,
    GlobalAvgPool,
    GroupNorm,
    MaxPool1d,
    MaxPool2d,
)
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
    Case("conv without bias", lambda: Conv2d(2, 3, 3, has_bias=False), ((2, 5, 6),)),
    Case("conv 1x1 without bias", lambda: Conv2d(3, 2, 1, has_bias=False), ((3, 4, 5),)),
    Case("grouped conv", lambda: Conv2d(4, 6, 3, padding=1, groups=2), ((4, 5, 6),)),
    Case("grouped conv 1x1", lambda: Conv2d(4, 2, 1, groups=2, has_bias=False), ((4, 5, 6),)),
    Case("depthwise conv", lambda: Conv2d(3, 3, 3, padding=1, groups=3), ((3, 6, 5),)),
    Case("depthwise conv stride 2", lambda: Conv2d(3, 3, 3, 2, 1, 3, False), ((3, 7, 6),)),
    Case("depthwise conv doubling", lambda: Conv2d(3, 6, (2, 3), groups=3), ((3, 4, 6),)),
    Case("conv padded apart", lambda: Conv2d(2, 3, 3, 2, (0, 1, 2, 1)), ((2, 6, 5),)),
    Case("conv 1x1 padded behind", lambda: Conv2d(2, 3, 1, 2, (0, 0, 1, 0)), ((2, 5, 4),)),
    Case("conv dilated", lambda: Conv2d(2, 3, 3, 1, 2, dilation=2), ((2, 6, 7),)),
    Case(
        "conv dilated pairs", lambda: Conv2d(4, 2, (3, 2), 2, (1, 0), 2, True, (2, 3)), ((4, 8, 7),)
    ),
    Case(
        "depthwise conv dilated",
        lambda: Conv2d(3, 3, 3, 1, (2, 0, 1, 3), 3, dilation=(2, 1)),
        ((3, 6, 5),),
    ),
    Case("conv 1d padded behind", lambda: Conv1d(2, 3, 3, 2, (0, 2)), ((2, 8),)),
    Case("conv 1d", lambda: Conv1d(3, 4, 3), ((3, 9),)),
    Case("conv 1d dilated", lambda: Conv1d(2, 3, 3, 2, 2, dilation=3), ((2, 14),)),
    Case("conv 1d wide kernel", lambda: Conv1d(1, 2, 5, padding=2, has_bias=False), ((1, 8),)),
    Case("conv 1d pointwise", lambda: Conv1d(4, 3, 1), ((4, 5),)),
    Case("grouped conv 1d", lambda: Conv1d(4, 6, 3, groups=2), ((4, 7),)),
    Case("depthwise conv 1d", lambda: Conv1d(3, 3, 4, 2, 1, 2, 3), ((3, 12),)),
    Case("transposed conv", lambda: ConvTranspose2d(3, 2, 3), ((3, 4, 5),)),
    Case("transposed conv stride 2", lambda: ConvTranspose2d(2, 3, 3, 2, 1, 1), ((2, 4, 3),)),
    Case(
        "transposed conv apart", lambda: ConvTranspose2d(2, 3, 2, 2, has_bias=False), ((2, 3, 4),)
    ),
    Case(
        "transposed conv dilated", lambda: ConvTranspose2d(2, 1, 3, 1, 1, dilation=2), ((2, 5, 4),)
    ),
    Case("transposed conv in groups", lambda: ConvTranspose2d(4, 6, 3, 2, groups=2), ((4, 3, 4),)),
    Case(
        "transposed conv depthwise", lambda: ConvTranspose2d(4, 4, 4, 2, 1, groups=4), ((4, 3, 4),)
    ),
    Case("group norm", lambda: GroupNorm(2, 6), ((6, 3, 4),)),
    Case("group norm series", lambda: GroupNorm(3, 6, 1e-3), ((6, 5),)),
    Case("group norm of one", lambda: GroupNorm(1, 4), ((4, 3, 2),)),
    Case("instance norm", lambda: GroupNorm(4, 4), ((4, 3, 5),)),
    Case("instance norm series", lambda: GroupNorm(3, 3), ((3, 7),)),
    Case("max pool", lambda: MaxPool2d(2), ((3, 6, 4),)),
    Case("max pool odd sizes", lambda: MaxPool2d(2), ((2, 7, 5),)),
    Case("max pool overlapping", lambda: MaxPool2d(3, 2), ((2, 7, 8),)),
    Case("max pool with gaps", lambda: MaxPool2d(2, 3), ((2, 8, 7),)),
    Case("max pool pairs", lambda: MaxPool2d((1, 3), (2, 1)), ((2, 5, 6),)),
    Case("max pool padded", lambda: MaxPool2d(3, 2, 1), ((2, 7, 8),)),
    Case("max pool padded apart", lambda: MaxPool2d(2, 2, 1), ((2, 6, 5),)),
    Case("max pool padded behind", lambda: MaxPool2d(2, 2, (0, 0, 1, 1)), ((2, 5, 7),)),
    Case("max pool 1d padded behind", lambda: MaxPool1d(3, 2, (0, 2)), ((2, 8),)),
    Case("max pool 1d", lambda: MaxPool1d(2), ((3, 7),)),
    Case("max pool 1d padded", lambda: MaxPool1d(3, 2, 1), ((2, 8),)),
    Case("average pool", lambda: AvgPool2d(2), ((3, 6, 4),)),
    Case("average pool overlapping", lambda: AvgPool2d(3, (2, 1)), ((2, 8, 5),)),
    Case("average pool padded", lambda: AvgPool2d((3, 2), 2, 1), ((2, 7, 6),)),
    Case("average pool of what is there", lambda: AvgPool2d(3, 2, 1, False), ((2, 5, 6),)),
    Case("average pool padded behind", lambda: AvgPool2d(2, 2, (0, 0, 1, 0), False), ((2, 5, 6),)),
    Case("average pool 1d of what is there", lambda: AvgPool1d(3, 1, 1, False), ((2, 6),)),
    Case("average pool 1d", lambda: AvgPool1d(3, 2, 1), ((2, 8),)),
    Case("global average pool", lambda: GlobalAvgPool(), ((3, 4, 5),)),
    Case("global average pool of series", lambda: GlobalAvgPool(), ((3, 7),)),
    Case("batch norm", lambda: BatchNorm(5), ((5,),)),
    Case("batch norm series", lambda: BatchNorm(3, momentum=0.3), ((3, 6),)),
    Case("batch norm image", lambda: BatchNorm(3, epsilon=1e-3), ((3, 4, 5),)),
)
