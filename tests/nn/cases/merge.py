"""Layers of several inputs."""

from __future__ import annotations

from hlserve.nn.layers import Add, Concat, Multiply
from tests.nn.cases.case import Case

CASES = (
    Case("add", lambda: Add(), ((5,), (5,))),
    Case("add three images", lambda: Add(), ((2, 3, 4),) * 3),
    Case("add three sequences", lambda: Add(), ((4, 3),) * 3),
    Case("multiply", lambda: Multiply(), ((5,), (5,))),
    Case("multiply three images", lambda: Multiply(), ((2, 3, 4),) * 3),
    Case("gates of an image", lambda: Multiply(gate_axes=2), ((3, 4, 5), (3,))),
    Case("gates of a series", lambda: Multiply(gate_axes=1), ((3, 6), (3,), (3,))),
    Case("concat", lambda: Concat(), ((3,), (4,))),
    Case("concat three images", lambda: Concat(), ((1, 3, 4), (2, 3, 4), (3, 3, 4))),
    Case("concat along the width", lambda: Concat(axis=2), ((2, 3, 4), (2, 3, 1))),
)
