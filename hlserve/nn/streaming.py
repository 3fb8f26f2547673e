"""Training on rows that lie in a file and need not fit into memory.

An epoch visits the file's blocks in a random order. Sixteen of them are in memory at a time and
their rows are mixed; a thread reads the next sixteen meanwhile. So a batch mixes rows of sixteen
places of the file, every row comes once an epoch, and memory is the same for any file. Where rows
lie sorted, by class or by time, more blocks than that are too far apart to meet in a batch:
shuffle such a file once.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from math import prod
from typing import final

import numpy as np

from hlserve.nn.batches import SAMPLED_ROWS, Batch
from hlserve.nn.losses import LABELS, Targets
from hlserve.nn.param import Array
from hlserve.nn.split import Indices
from hlserve.nn.workspace import Workspace
from hlserve.row_blocks import RowReader, rows_at

BLOCK_ROWS = 4096
WINDOW_BLOCKS = 16
# Two windows are in memory, one in use and one being read; large rows make smaller blocks.
WINDOW_BYTES = 48 * 2**20
SMALLEST_BLOCKS = 64  # at least so many in a set, so that a share of them can be set apart


@final
class StreamBatches:
    """Batches of rows that are read block by block.

    Args:
        inputs: (rows, ...) by input name, of any length; mapped ones are read from their file.
        targets: as given to ``fit``, raw.
        blocks: the first rows of the blocks to train on.
        block_rows: rows of a block; the set's last may be shorter.
        ready: rows as training takes them, of which only shapes and types are looked at.
    """

    def __init__(
        self,
        inputs: Mapping[str, Array],
        targets: Targets,
        blocks: Indices,
        block_rows: int,
        ready: Batch,
    ) -> None:
        self._is_named = isinstance(targets, Mapping)
        self._inputs = dict(inputs)
        self._targets = dict(targets) if isinstance(targets, Mapping) else {LABELS: targets}
        self._blocks = blocks
        self._block_rows = block_rows
        self._n_rows = len(next(iter(inputs.values())))
        self._forms = _forms(ready)
        self._buffers = Workspace()

    def __len__(self) -> int:
        return int(self._sizes(self._blocks).sum())

    def epoch(
        self, rng: np.random.Generator, batch_size: int, skip: int
    ) -> Generator[Batch, None, None]:
        """See BatchSource."""
        blocks = rng.permutation(self._blocks)
        windows = [blocks[i : i + WINDOW_BLOCKS] for i in range(0, len(blocks), WINDOW_BLOCKS)]
        orders = (rng.permutation(int(self._sizes(window).sum())) for window in windows)
        arrays = {**_keyed("input", self._inputs), **_keyed("target", self._targets)}
        left, filled = skip * batch_size, 0  # rows to leave out still; rows in the batch so far
        with _Reader(arrays, self._block_rows, self._n_rows) as reader:
            for number, (window, order) in enumerate(zip(windows, orders, strict=True)):
                if len(order) <= left:
                    left -= len(order)
                    continue
                rows = reader.window(window, following=windows[number + 1 : number + 2])
                position, left = left, 0
                while position < len(order):
                    chosen = order[position : position + batch_size - filled]
                    self._gather(rows, chosen, filled, batch_size)
                    position, filled = position + len(chosen), filled + len(chosen)
                    if filled == batch_size:
                        yield self._batch(filled, batch_size)
                        filled = 0
            if filled:
                yield self._batch(filled, batch_size)

    def sample(self) -> dict[str, Array]:
        """See BatchSource."""
        chosen = self._blocks[:: max(1, len(self._blocks) // SMALLEST_BLOCKS)]
        rows = np.arange(min(SAMPLED_ROWS // SMALLEST_BLOCKS, self._block_rows))
        indices = (chosen[:, np.newaxis] + rows).reshape(-1)
        indices = indices[indices < self._n_rows]
        arrays = {**_keyed("input", self._inputs), **_keyed("target", self._targets)}
        return {name: rows_at(array, indices) for name, array in arrays.items()}

    def _sizes(self, blocks: Indices) -> Indices:
        return np.minimum(self._block_rows, self._n_rows - blocks)

    def _gather(
        self, rows: Mapping[str, Array], chosen: Indices, filled: int, batch_size: int
    ) -> None:
        for name, array in rows.items():
            out = self._buffers.empty(name, (batch_size, *array.shape[1:]), array.dtype)
            part = out[filled : filled + len(chosen)]
            # mode="clip" writes straight into the buffer; the default gathers into a copy first.
            np.take(array, chosen, axis=0, out=part, mode="clip")

    def _batch(self, n_rows: int, batch_size: int) -> Batch:
        ready = {name: self._ready(name, n_rows, batch_size) for name in self._forms}
        inputs = {name: ready[f"input {name}"] for name in self._inputs}
        targets = {name: ready[f"target {name}"] for name in self._targets}
        return Batch(inputs, targets if self._is_named else targets[LABELS])

    def _ready(self, name: str, n_rows: int, batch_size: int) -> Array:
        kind, _, key = name.partition(" ")
        array = (self._inputs if kind == "input" else self._targets)[key]
        raw = self._buffers.empty(name, (batch_size, *array.shape[1:]), array.dtype)[:n_rows]
        shape, dtype = self._forms[name]
        raw = raw.reshape(n_rows, *shape)
        if raw.dtype == dtype:
            return raw
        out = self._buffers.empty(f"{name} ready", raw.shape, dtype)
        np.copyto(out, raw, casting="unsafe")
        return out


class _Reader:
    """Reads a window while the one before is used; both lie in buffers that take turns."""

    def __init__(self, arrays: Mapping[str, Array], block_rows: int, n_rows: int) -> None:
        self._n_rows = n_rows
        self._block_rows = block_rows
        self._open = ExitStack()
        self._readers = {n: self._open.enter_context(RowReader(a)) for n, a in arrays.items()}
        rows = min(WINDOW_BLOCKS * block_rows, n_rows)
        self._buffers = [
            {name: np.empty((rows, *a.shape[1:]), a.dtype) for name, a in arrays.items()}
            for _ in range(2)
        ]
        # Closed before the files are: what is being read is waited for.
        self._pool = self._open.enter_context(ThreadPoolExecutor(1, thread_name_prefix="reader"))
        self._pending: Future[dict[str, Array]] | None = None
        self._turn = 0

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def window(self, blocks: Indices, following: list[Indices]) -> dict[str, Array]:
        """The blocks' rows one after the other; starts to read those that follow."""
        pending = self._pending or self._start(blocks)
        rows = pending.result()
        self._pending = self._start(following[0]) if following else None
        return rows

    def _start(self, blocks: Indices) -> Future[dict[str, Array]]:
        self._turn = 1 - self._turn
        return self._pool.submit(self._read, blocks, self._buffers[self._turn])

    def _read(self, blocks: Indices, buffers: dict[str, Array]) -> dict[str, Array]:
        filled = 0
        for first in blocks.tolist():
            last = min(first + self._block_rows, self._n_rows)
            for name, reader in self._readers.items():
                reader.read(first, last, buffers[name][filled : filled + last - first])
            filled += last - first
        return {name: buffer[:filled] for name, buffer in buffers.items()}


def block_rows(arrays: Mapping[str, Array]) -> int:
    """Rows of a block, so that a window of them keeps within its bytes."""
    n_rows = len(next(iter(arrays.values())))
    row_bytes = sum(prod(a.shape[1:]) * a.itemsize for a in arrays.values())
    fitting = WINDOW_BYTES // WINDOW_BLOCKS // max(1, row_bytes)
    return max(1, min(BLOCK_ROWS, fitting, n_rows // SMALLEST_BLOCKS))


def _keyed(kind: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {f"{kind} {name}": array for name, array in arrays.items()}


def _forms(ready: Batch) -> dict[str, tuple[tuple[int, ...], np.dtype[np.generic]]]:
    named = ready.targets if isinstance(ready.targets, Mapping) else {LABELS: ready.targets}
    arrays = {**_keyed("input", ready.inputs), **_keyed("target", named)}
    return {name: (array.shape[1:], array.dtype) for name, array in arrays.items()}
