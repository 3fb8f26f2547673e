"""Fully connected layers."""

from __future__ import annotations

from hlserve.nn.layers import Linear
from tests.nn.cases.case import Case

CASES = (
    Case("linear", lambda: Linear(7, 5), ((7,),)),
    Case("linear to one", lambda: Linear(4, 1), ((4,),)),
)
