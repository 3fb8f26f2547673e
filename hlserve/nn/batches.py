"""Where training batches come from: rows in a new order every epoch."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np

from hlserve.nn.evaluation import Part
from hlserve.nn.losses import Targets
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace


@final
@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of every input and their targets, rows first; they live until the next batch."""

    inputs: dict[str, Array]
    targets: Targets

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def rows(self, start: int, stop: int) -> Batch:
        """A view of some of the rows."""
        inputs = {name: array[start:stop] for name, array in self.inputs.items()}
        if isinstance(self.targets, Mapping):
            return Batch(inputs, {n: array[start:stop] for n, array in self.targets.items()})
        return Batch(inputs, self.targets[start:stop])


class BatchSource(Protocol):
    """Training rows, given out in batches."""

    def __len__(self) -> int:
        """Rows an epoch."""

    def epoch(
        self, rng: np.random.Generator, batch_size: int, skip: int
    ) -> Generator[Batch, None, None]:
        """Every row once, in an order that ``rng`` draws; the last batch may be shorter.

        The first ``skip`` batches are left out, and the others are what they would have been.
        ``rng`` draws as much either way, by the time the iterator ends.
        """

    def sample(self) -> dict[str, Array]:
        """Some rows at even distances, with their targets: what the run's fingerprint tells."""


@final
class MemoryBatches:
    """Batches of rows that lie in memory: one permutation an epoch, then gathers."""

    def __init__(self, part: Part, dtype: np.dtype[np.generic]) -> None:
        self._part = part
        self._buffers = Workspace(dtype)

    def __len__(self) -> int:
        return len(self._part)

    def epoch(
        self, rng: np.random.Generator, batch_size: int, skip: int
    ) -> Generator[Batch, None, None]:
        """See BatchSource."""
        order = rng.permutation(self._part.indices)
        for start in range(skip * batch_size, len(order), batch_size):
            indices = order[start : start + batch_size]
            yield Batch(*self._part.examples.take(indices, self._buffers))

    def sample(self) -> dict[str, Array]:
        """See BatchSource."""
        examples = self._part.examples
        named = examples.targets
        targets = named if isinstance(named, Mapping) else {"labels": named}
        arrays = {**examples.inputs, **{f"target {n}": array for n, array in targets.items()}}
        chosen = self._part.indices[:: max(1, len(self) // SAMPLED_ROWS)]
        return {name: array[chosen] for name, array in arrays.items()}


SAMPLED_ROWS = 4096  # at least, where there are so many


def n_batches(n_rows: int, batch_size: int) -> int:
    """Batches an epoch."""
    return math.ceil(n_rows / batch_size)
