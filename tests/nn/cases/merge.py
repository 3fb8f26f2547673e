"""Layers of several inputs."""

from __future__ import annotations

from hlserve.nn.layers import Add
from tests.nn.cases.case import Case

CASES: tuple[Case, ...] = (
    Case("add", lambda: Add(), ((6,), (6,))),
    Case("add three sequences", lambda: Add(), ((4, 3), (4, 3), (4, 3))),
)
