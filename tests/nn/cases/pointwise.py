"""Layers that work number by number, and Softmax."""

from __future__ import annotations

from hlserve.nn.layers import Dropout, ReLU, Sigmoid, Softmax, Tanh
from tests.nn.cases.case import Case

CASES = (
    Case("relu", lambda: ReLU(), ((9,),)),
    Case("relu image", lambda: ReLU(), ((2, 3, 4),)),
    Case("tanh", lambda: Tanh(), ((9,),)),
    Case("sigmoid", lambda: Sigmoid(), ((2, 3, 4),)),
    Case("softmax", lambda: Softmax(), ((6,),)),
    Case("dropout", lambda: Dropout(0.4), ((9,),)),
    Case("dropout image", lambda: Dropout(0.25), ((2, 3, 4),)),
    Case("dropout of nothing", lambda: Dropout(0.0), ((5,),)),
)
