"""Arrays in C order, copied only where they are not."""

from __future__ import annotations

import numpy as np

from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace


def c_contiguous(array: Array, key: str, workspace: Workspace) -> Array:
    """The same array, or a copy in the workspace where its memory lies in another order."""
    if array.flags.c_contiguous:
        return array
    copied = workspace.empty(key, array.shape)
    np.copyto(copied, array)
    return copied


def contiguous_batch(array: Array, key: str, workspace: Workspace) -> Array:
    """The same array, copied where the batch is not its fastest axis, as in a turned view."""
    if array.strides[-1] == array.itemsize or array.shape[-1] == 1:
        return array
    return c_contiguous(array, key, workspace)
