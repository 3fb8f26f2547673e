"""Where a workspace's buffers lie."""

from __future__ import annotations

import numpy as np
import pytest

from hlserve.nn.workspace import CACHE_LINE, Workspace


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8, bool])
@pytest.mark.parametrize("size", [1, 7, 4096, 300_000])
def test_buffers_start_at_a_cache_line(size: int, dtype: type) -> None:
    workspace = Workspace()
    for array in (workspace.empty("a", (size,), dtype), workspace.scratch("b", (size,), dtype)):
        assert array.ctypes.data % CACHE_LINE == 0
        assert (array.shape, array.dtype) == ((size,), np.dtype(dtype))
