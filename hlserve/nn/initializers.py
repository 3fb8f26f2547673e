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


def orthogonal(rng: np.random.Generator, size: int) -> Array:
    """A random orthogonal matrix (size, size), float32, each as likely as any other.

    Source: Saxe et al. 2014, arXiv:1312.6120; Mezzadri 2007, arXiv:math-ph/0609050, for the signs.
    """
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    return np.asarray(q * np.where(np.diag(r) < 0, -1.0, 1.0), np.float32)
