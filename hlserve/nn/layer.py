"""What every layer must do."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.param import Array, Param
from hlserve.nn.workspace import Workspace

Shape = tuple[int, ...]

# Rows of 0 and 1, one number a step; of a prefix the ones come first.
MaskKind = Literal["mask", "prefix mask"]


class Backward(Protocol):
    """What forward returns beside its output: the way back for exactly that pass."""

    def __call__(self, dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
        """Takes dL/dy, adds to every ``Param.grad``, returns dL/dx for every input.

        Called once. ``dy`` belongs to the callee, which may overwrite it. The arrays returned do
        not share memory with each other. With ``need_dx=False`` nothing upstream learns: the
        result is empty and the work for it is left out.
        """


class Layer(ABC):
    """A layer: parameters, forward, backward and its spelling in ONNX, all in one file.

    Implementations are final dataclasses whose fields are their constructor's arguments, plus
    their parameters. Arrays are batch-last: (features, batch), (channels, height, width,
    batch), (time, features, batch). Layers keep nothing between calls; what backward needs
    lives in its closure and in the workspace.
    """

    takes_raw: ClassVar[bool] = False  # accepts inputs of any number type, such as uint8 pixels
    takes_missing: ClassVar[bool] = False  # accepts NaN, and knows what to do with it
    second_input: ClassVar[MaskKind | None] = None  # what it is where a layer reads two; or data
    output_dtype: ClassVar[str] = "float32"  # of what the exported operators give; or "int64"

    @abstractmethod
    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """The output for batch-last inputs, and the way back. Inputs are never overwritten."""

    @abstractmethod
    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """Says the layer in standard ONNX operators, batch-first; answers the output's name."""

    @abstractmethod
    def output_shape(self, *shapes: Shape) -> Shape:
        """The shape of one row's output for the shapes of one row's inputs.

        Raises:
            ConfigError: the shapes do not fit this layer.
        """

    @property
    def n_ids(self) -> int | None:
        """What ids of an int64 input lie below, from 0 on; None where the layer does not say."""
        return None

    def params(self) -> dict[str, Param]:
        """The trained arrays by name, in a fixed order."""
        return {}

    def initialize(self, rng: np.random.Generator) -> None:  # noqa: B027  # most layers draw none
        """Draws fresh parameter values; nothing to do without parameters."""

    def macs(self, *shapes: Shape) -> int:
        """Multiply-accumulates for one row; 0 where there are none to speak of."""
        return 0

    def with_arrays(self, arrays: Mapping[str, Array]) -> Self:
        """The same kind of layer with these parameter values; sizes follow their shapes."""
        if arrays:
            raise ValueError(f"{type(self).__name__} has no parameters, got {sorted(arrays)}")
        return dataclasses.replace(self)  # type: ignore[type-var]  # every layer is a dataclass

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """The units of the output for those of the inputs; unchanged by default.

        ``shapes`` are the shapes of one row's inputs.
        """
        return inputs[0]

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON can hold them."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # every layer is a dataclass
        return {f.name: getattr(self, f.name) for f in fields if f.init}


def only_shape(kind: str, shapes: Sequence[Shape]) -> Shape:
    """The shape of the only input, for layers of one input that take any shape.

    Raises:
        ConfigError: there is not exactly one input.
    """
    if len(shapes) != 1:
        raise ConfigError(f"{kind} takes one input, got {len(shapes)}")
    return shapes[0]
