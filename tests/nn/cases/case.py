"""What a row of the table of layers is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hlserve.nn.layer import Layer, Shape
from hlserve.nn.network import Input, Network, Node
from hlserve.nn.param import Array

MakeRows = Callable[[np.random.Generator, tuple[int, ...]], Array]


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Float32 rows around zero."""
    return rng.standard_normal(shape, np.float32)


def ids(below: int) -> MakeRows:
    """Int64 rows of 0 <= id < ``below``."""
    return lambda rng, shape: rng.integers(0, below, shape)


def prefix_mask(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Int64 rows (n, time) of at least one 1, then zeros: sequences of different length."""
    n, time = shape
    return (np.arange(time) < rng.integers(1, time + 1, n)[:, None]).astype(np.int64)


@dataclass(frozen=True)
class Case:
    """A layer, the shapes of one row of its inputs, and what makes their rows.

    Inputs are float32 where ``makers`` says nothing else.
    """

    name: str
    make: Callable[[], Layer]
    shapes: tuple[Shape, ...]
    makers: tuple[MakeRows, ...] = ()

    def network(self) -> Network:
        """The layer alone, every parameter random, biases too, and statistics above zero."""
        dtypes = {name: str(array.dtype) for name, array in self.rows(1).items()}
        inputs = [Input(f"x{i}", shape, dtypes[f"x{i}"]) for i, shape in enumerate(self.shapes)]
        node = Node("layer", self.make(), tuple(i.name for i in inputs))
        network = Network(inputs, [node], {"y": "layer"})
        rng = np.random.default_rng(1)
        network.value[...] = 0.5 * rng.standard_normal(network.value.size)
        network.statistics[...] = rng.uniform(0.5, 2.0, network.statistics.size)
        return network

    def rows(self, n: int, seed: int = 0) -> dict[str, Array]:
        """Rows of every input by name, batch-first."""
        rng = np.random.default_rng(seed)
        makers = self.makers or (normal,) * len(self.shapes)
        return {
            f"x{i}": make(rng, (n, *shape))
            for i, (make, shape) in enumerate(zip(makers, self.shapes, strict=True))
        }
