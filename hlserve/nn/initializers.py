"""Starting values for weights."""

from __future__ import annotations

import math

import numpy as np

from hlserve.nn.param import Array


def he_uniform(rng: np.random.Generator, shape: tuple[int, ...], *, fan_in: int) -> Array:
    """Uniform in +-sqrt(6 / fan_in), float32 (He et al. 2015, arXiv:1502.01852)."""
    limit = math.sqrt(6.0 / fan_in)
    return rng.uniform(-limit, limit, shape).astype(np.float32)


def glorot_uniform(
    rng: np.random.Generator, shape: tuple[int, ...], *, fan_in: int, fan_out: int
) -> Array:
    """Uniform in +-sqrt(6 / (fan_in + fan_out)), float32 (Glorot & Bengio 2010)."""
    limit = math.sqrt(6.0 / (fan_in + fan_out))
    return rng.uniform(-limit, limit, shape).astype(np.float32)
