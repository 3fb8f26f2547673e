"""Scaled dot-product attention, what MultiHeadAttention does between its projections."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace

MASKED = -1e30  # added to scores: beyond any of them, and exp gives exactly 0

AttendBackward = Callable[[Array, Array], None]


def attend(qkv: Array, mask: Array | None, workspace: Workspace) -> tuple[Array, AttendBackward]:
    """softmax(Q K^T / sqrt(head_dim)) V for every head and row (Vaswani et al. 2017, equation 1).

    Weights are held as (keys, heads, batch, queries): softmax over the first axis runs through
    whole memory lines, three to five times as fast as over the last, and BLAS takes the strided
    matrices as they are.

    Args:
        qkv: (3, heads, head_dim, batch, time): queries, keys and values. The queries are
            divided by sqrt(head_dim) in place.
        mask: (time, batch) of 0 and 1; keys at 0 get no weight. Where all are 0, all weigh alike.
        workspace: holds the output and the weights.

    Returns:
        (heads, head_dim, batch, time), and the way back: a function that takes the output's
        gradient and an array like ``qkv``, into which it writes the gradient.
    """
    _, heads, head_dim, batch, time = qkv.shape
    scale = 1 / math.sqrt(head_dim)
    qkv[0] *= scale
    q, k, v = qkv.swapaxes(2, 3)  # (heads, batch, head_dim, time) each
    weights = workspace.empty("weights", (time, heads, batch, time))
    by_head = np.moveaxis(weights, 0, 2)  # (heads, batch, keys, queries)
    np.matmul(k.swapaxes(2, 3), q, out=by_head)
    if mask is not None:
        penalty = np.equal(mask, 0, out=workspace.scratch("is_masked", mask.shape, np.bool_))
        weights += _scaled(penalty, MASKED, workspace)[:, None, :, None]
    _softmax(weights, workspace)
    y = workspace.empty("attended", (heads, head_dim, batch, time))
    np.matmul(v, by_head, out=y.swapaxes(1, 2))

    def backward(dy: Array, dqkv: Array) -> None:
        dq, dk, dv = dqkv.swapaxes(2, 3)
        np.matmul(dy.swapaxes(1, 2), by_head.swapaxes(2, 3), out=dv)
        # The softmax's way back needs sum over keys of weight dweight, which is sum of dy y.
        product = np.multiply(dy, y, out=workspace.scratch("product", y.shape))
        slant = workspace.scratch("slant", (heads, batch, time))
        np.add.reduce(product, axis=1, out=slant)
        dscores = workspace.scratch("dscores", weights.shape)
        dscores_by_head = np.moveaxis(dscores, 0, 2)
        np.matmul(v.swapaxes(2, 3), dy.swapaxes(1, 2), out=dscores_by_head)
        dscores -= slant
        dscores *= weights
        np.matmul(k, dscores_by_head, out=dq)
        np.matmul(q, dscores_by_head.swapaxes(2, 3), out=dk)
        dqkv[0] *= scale

    return y, backward


def _scaled(flags: Array, factor: float, workspace: Workspace) -> Array:
    out = workspace.scratch("penalty", flags.shape)
    return np.multiply(flags, factor, out=out, dtype=out.dtype)


def _softmax(scores: Array, workspace: Workspace) -> None:
    """Over the first axis, in place."""
    per_query = workspace.scratch("per_query", scores.shape[1:])
    scores -= np.maximum.reduce(scores, axis=0, out=per_query)
    np.exp(scores, out=scores)
    scores /= np.add.reduce(scores, axis=0, out=per_query)
