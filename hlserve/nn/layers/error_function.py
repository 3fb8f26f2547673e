"""The error function, which NumPy does not have."""

from __future__ import annotations

import math

import numpy as np

from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace

# Abramowitz & Stegun 1964, equation 7.1.26: p, then a5 down to a1.
_P = 0.3275911
_A = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)

_BLOCK = 8192  # numbers at a time: the passes over a block find it in the nearest cache
_BEYOND = 6.0  # from here on erf(x) rounds to 1 in float64
_NODES = 40  # Gauss-Legendre on [0, 1] then errs by less than float64 rounds, for |x| < 6


def erf(x: Array, *, out: Array, workspace: Workspace) -> Array:
    """The error function of every number of ``x``, into ``out``, which may be ``x``.

    Both are C-ordered arrays of one shape and of the workspace's dtype. float32 errs by less
    than 5e-7 (Abramowitz & Stegun 7.1.26, whose own error is 1.5e-7), float64 by less than
    1e-14 (Gauss-Legendre quadrature; slow, but only gradient checks compute so).
    """
    flat, flat_out = x.reshape(-1), out.reshape(-1)
    compute = _rational if out.dtype == np.float32 else _quadrature
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        compute(block, flat_out[start : start + _BLOCK], workspace)
    return out


def _rational(x: Array, out: Array, workspace: Workspace) -> None:
    """erf(x) = 1 - (a1 t + ... + a5 t^5) exp(-x^2) with t = 1 / (1 + p x), odd in x."""
    t = np.abs(x, out=workspace.scratch("erf_t", x.shape))
    y = workspace.scratch("erf_y", x.shape)
    t *= _P
    t += 1
    np.reciprocal(t, out=t)
    np.multiply(t, _A[0], out=y)
    for a in _A[1:]:
        y += a
        y *= t
    with np.errstate(over="ignore"):  # x^2 = inf is right: exp(-inf) is 0
        np.multiply(x, x, out=t)
    np.negative(t, out=t)
    y *= np.exp(t, out=t)
    np.subtract(1, y, out=y)
    np.copysign(y, x, out=out)


def _quadrature(x: Array, out: Array, workspace: Workspace) -> None:
    """erf(x) = 2 x / sqrt(pi) times the integral of exp(-(x u)^2) over u from 0 to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    near = np.clip(x, -_BEYOND, _BEYOND, out=workspace.scratch("erf_t", x.shape))
    total = workspace.scratch("erf_y", x.shape)
    term = workspace.scratch("erf_term", x.shape)
    total.fill(0)
    for u, weight in zip((nodes + 1) / 2, weights / math.sqrt(math.pi), strict=True):
        np.multiply(near, u, out=term)
        np.multiply(term, term, out=term)
        np.exp(np.negative(term, out=term), out=term)
        term *= weight
        total += term
    np.multiply(near, total, out=out)
