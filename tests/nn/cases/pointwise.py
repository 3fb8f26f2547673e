"""Layers that work number by number, and Softmax."""

from __future__ import annotations

from hlserve.nn.layers import (
    ELU,
    GELU,
    Dropout,
    HardSwish,
    LeakyReLU,
    PReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from tests.nn.cases.case import Case

CASES = (
    Case("relu", lambda: ReLU(), ((9,),)),
    Case("relu image", lambda: ReLU(), ((2, 3, 4),)),
    Case("leaky relu", lambda: LeakyReLU(), ((9,),)),
    Case("leaky relu image", lambda: LeakyReLU(0.3), ((2, 3, 4),)),
    Case("leaky relu sequence", lambda: LeakyReLU(0.0), ((4, 5),)),
    Case("prelu", lambda: PReLU(9), ((9,),)),
    Case("prelu of one slope", lambda: PReLU(), ((2, 3, 4),)),
    Case("prelu image", lambda: PReLU(3), ((3, 2, 4),)),
    Case("prelu sequence", lambda: PReLU(5, axis=1), ((4, 5),)),
    Case("prelu over channels", lambda: PReLU(4), ((4, 5),)),
    Case("elu", lambda: ELU(), ((9,),)),
    Case("elu image", lambda: ELU(0.5), ((2, 3, 4),)),
    Case("elu sequence", lambda: ELU(2.0), ((4, 5),)),
    Case("gelu", lambda: GELU(), ((9,),)),
    Case("gelu image", lambda: GELU(), ((2, 3, 4),)),
    Case("gelu sequence", lambda: GELU("tanh"), ((4, 5),)),
    Case("gelu by tanh", lambda: GELU("tanh"), ((9,),)),
    Case("silu", lambda: SiLU(), ((9,),)),
    Case("silu image", lambda: SiLU(), ((2, 3, 4),)),
    Case("silu sequence", lambda: SiLU(), ((4, 5),)),
    Case("softplus", lambda: Softplus(), ((9,),)),
    Case("softplus image", lambda: Softplus(), ((2, 3, 4),)),
    Case("softplus sequence", lambda: Softplus(), ((4, 5),)),
    Case("hard swish", lambda: HardSwish(), ((9,),)),
    Case("hard swish image", lambda: HardSwish(), ((2, 3, 4),)),
    Case("hard swish sequence", lambda: HardSwish(), ((4, 5),)),
    Case("tanh", lambda: Tanh(), ((9,),)),
    Case("sigmoid", lambda: Sigmoid(), ((2, 3, 4),)),
    Case("softmax", lambda: Softmax(), ((6,),)),
    Case("dropout", lambda: Dropout(0.4), ((9,),)),
    Case("dropout image", lambda: Dropout(0.25), ((2, 3, 4),)),
    Case("dropout of nothing", lambda: Dropout(0.0), ((5,),)),
)
