"""THE table of layers: a row a layer, or one for every kind of geometry it has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hlserve.nn.layer import Layer, Shape
from hlserve.nn.layers import (
    Conv2d,
    Dropout,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    Reshape,
    Scale,
    Sigmoid,
    Softmax,
    Standardize,
    Tanh,
)
from hlserve.nn.network import Input, Network, Node
from hlserve.nn.param import Array


@dataclass(frozen=True)
class Case:
    """A layer and the shapes of one row of its inputs."""

    name: str
    make: Callable[[], Layer]
    shapes: tuple[Shape, ...]

    def network(self) -> Network:
        """The layer alone, every parameter random, biases too."""
        inputs = [Input(f"x{i}", shape) for i, shape in enumerate(self.shapes)]
        node = Node("layer", self.make(), tuple(i.name for i in inputs))
        network = Network(inputs, [node], {"y": "layer"})
        network.value[...] = 0.5 * np.random.default_rng(1).standard_normal(network.value.size)
        return network

    def rows(self, n: int, seed: int = 0) -> dict[str, Array]:
        """Normal float32 rows, batch-first."""
        rng = np.random.default_rng(seed)
        return {
            f"x{i}": rng.standard_normal((n, *shape), np.float32)
            for i, shape in enumerate(self.shapes)
        }


CASES = (
    Case("linear", lambda: Linear(7, 5), ((7,),)),
    Case("linear to one", lambda: Linear(4, 1), ((4,),)),
    Case("conv 3x3", lambda: Conv2d(2, 3, 3), ((2, 6, 7),)),
    Case("conv 1x1", lambda: Conv2d(3, 2, 1), ((3, 4, 5),)),
    Case("conv same padding", lambda: Conv2d(2, 4, 5, padding=2), ((2, 6, 5),)),
    Case("conv stride 2", lambda: Conv2d(2, 3, 3, stride=2, padding=1), ((2, 8, 7),)),
    Case("conv 1x1 stride 2", lambda: Conv2d(2, 3, 1, stride=2), ((2, 5, 6),)),
    Case("conv pairs", lambda: Conv2d(1, 2, (2, 5), (3, 2), (1, 0)), ((1, 9, 8),)),
    Case("conv wide padding", lambda: Conv2d(1, 2, (2, 3), 2, (3, 4)), ((1, 4, 3),)),
    Case("conv whole input", lambda: Conv2d(2, 3, (4, 3)), ((2, 4, 3),)),
    Case("max pool", lambda: MaxPool2d(2), ((3, 6, 4),)),
    Case("max pool odd sizes", lambda: MaxPool2d(2), ((2, 7, 5),)),
    Case("max pool overlapping", lambda: MaxPool2d(3, 2), ((2, 7, 8),)),
    Case("max pool with gaps", lambda: MaxPool2d(2, 3), ((2, 8, 7),)),
    Case("max pool pairs", lambda: MaxPool2d((1, 3), (2, 1)), ((2, 5, 6),)),
    Case("flatten image", lambda: Flatten(), ((2, 3, 4),)),
    Case("flatten vector", lambda: Flatten(), ((6,),)),
    Case("reshape to image", lambda: Reshape((2, 3, 4)), ((24,),)),
    Case("reshape free channels", lambda: Reshape((-1, 2, 2)), ((12,),)),
    Case("reshape to vector", lambda: Reshape([-1]), ((3, 2, 2),)),
    Case("relu", lambda: ReLU(), ((9,),)),
    Case("relu image", lambda: ReLU(), ((2, 3, 4),)),
    Case("tanh", lambda: Tanh(), ((9,),)),
    Case("sigmoid", lambda: Sigmoid(), ((2, 3, 4),)),
    Case("softmax", lambda: Softmax(), ((6,),)),
    Case("dropout", lambda: Dropout(0.4), ((9,),)),
    Case("dropout image", lambda: Dropout(0.25), ((2, 3, 4),)),
    Case("dropout of nothing", lambda: Dropout(0.0), ((5,),)),
    Case("scale", lambda: Scale(0.25), ((9,),)),
    Case("scale and shift image", lambda: Scale(1 / 255, -0.5), ((1, 3, 4),)),
    Case("standardize", lambda: Standardize([1.0, -2.0, 0.5], [2.0, 0.0, 0.1]), ((3,),)),
    Case("standardize series", lambda: Standardize([1.0, -2.0], [2.0, 3.0]), ((4, 2),)),
)
