"""Layers that take raw values."""

from __future__ import annotations

import numpy as np

from hlserve.nn.layers import Impute, OneHot, Scale, Standardize
from hlserve.nn.param import Array
from tests.nn.cases.case import Case


def with_gaps(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Float32 rows, a third of whose values are missing."""
    rows = rng.standard_normal(shape, np.float32)
    rows[rng.random(shape) < 1 / 3] = np.nan
    return rows


def categories(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Float32 rows of whole numbers from -1 to 4."""
    return rng.integers(-1, 5, shape).astype(np.float32)


CASES = (
    Case("scale", lambda: Scale(0.25), ((9,),)),
    Case("scale and shift image", lambda: Scale(1 / 255, -0.5), ((1, 3, 4),)),
    Case("standardize", lambda: Standardize([1.0, -2.0, 0.5], [2.0, 0.0, 0.1]), ((3,),)),
    Case("impute", lambda: Impute([1.0, -2.0, 0.5]), ((3,),), (with_gaps,)),
    Case("impute and say where", lambda: Impute([1.0, -2.0, 0.5], [2, 0]), ((3,),), (with_gaps,)),
    Case("one hot", lambda: OneHot(4, [2, 0], [[0, 1, 2], [3, -1]]), ((4,),), (categories,)),
    Case("one hot of all", lambda: OneHot(1, [0], [[1, 2, 4]]), ((1,),), (categories,)),
    Case("standardize series", lambda: Standardize([1.0, -2.0], [2.0, 3.0]), ((4, 2),)),
)
