"""An ONNX graph as the importer looks at it: who makes a tensor, what is fixed, every shape.

Shapes and fixed values are found by running the graph on real rows, which also knows those
that come out of shape arithmetic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from compress.model_file import opset
from compress.session import Session
from hlserve.errors import CompressionError
from hlserve.nn.layer import Shape
from hlserve.nn.param import Array

_TELLS_SHAPE = frozenset({"Shape", "Size"})


class RefusalError(CompressionError):
    """A node that no layer stands for; the message is the reason alone."""


class Graph:
    """One graph without control flow, and the values of all its tensors for a few rows.

    Args:
        model: loads in ONNX Runtime.
        feeds: the rows, (n, ...) by input name.

    Attributes:
        n: how many rows were run.
        outputs: the names of the model's outputs.
        opset: the version of the standard operators.
    """

    def __init__(self, model: onnx.ModelProto, feeds: Mapping[str, Array]) -> None:
        self.n = len(next(iter(feeds.values())))
        self.outputs = tuple(entry.name for entry in model.graph.output)
        self.opset = opset(model)
        self._positions = {
            name: i for i, n in enumerate(model.graph.node) for name in n.output if name
        }
        self._producers = {name: n for n in model.graph.node for name in n.output if name}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in set(node.input):
                self._readers.setdefault(name, []).append(node)
        self._n_readers = Counter(name for n in model.graph.node for name in n.input)
        self._n_readers.update(self.outputs)
        self._inputs = frozenset(feeds)
        self._fixed = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self._values: dict[str, Array] = dict(feeds) | self._fixed | _all_values(model, feeds)
        self._numbers = _behind(model.graph.node, self._inputs, through_shapes=False)
        told = _behind(model.graph.node, self._inputs, through_shapes=True)
        self._flowing = told - self._steady(model, feeds, told - self._numbers)

    def producer(self, tensor: str) -> onnx.NodeProto | None:
        """The operator that makes the tensor; None for inputs and initializers."""
        return self._producers.get(tensor)

    def made_by(self, tensor: str, *op_types: str) -> onnx.NodeProto | None:
        """The operator that makes the tensor where it is one of these, else None."""
        node = self._producers.get(tensor)
        return node if node is not None and node.op_type in op_types else None

    def is_input(self, tensor: str) -> bool:
        """Whether it is an input of the model."""
        return tensor in self._inputs

    def position(self, tensor: str) -> int:
        """Where in the order of operators it is made; -1 for inputs."""
        return self._positions.get(tensor, -1)

    def readers(self, tensor: str) -> tuple[onnx.NodeProto, ...]:
        """The model's operators that read it."""
        return tuple(self._readers.get(tensor, ()))

    def has_one_reader(self, tensor: str) -> bool:
        """Whether nothing else reads it, the model's caller included."""
        return self._n_readers[tensor] == 1

    def fixed(self, tensor: str) -> Array | None:
        """Its value where that does not depend on the rows at all, else None."""
        return None if not tensor or tensor in self._flowing else self._values.get(tensor)

    def number(self, tensor: str) -> float | None:
        """A fixed tensor of one number as that number, else None."""
        value = self.fixed(tensor)
        return None if value is None or value.size != 1 else float(value.reshape(-1)[0])

    def value(self, tensor: str) -> Array:
        """Its value for the rows that were run, such as a shape that was computed."""
        return self._values[tensor]

    def shape(self, tensor: str) -> Shape:
        """The shape of one row.

        Raises:
            RefusalError: rows are not counted by the first axis.
        """
        whole = self._values[tensor].shape
        if not whole or whole[0] != self.n:
            raise RefusalError(
                f"{tensor!r} has shape {whole} for {self.n} rows: not one entry a row"
            )
        return whole[1:]

    def data_inputs(self, node: onnx.NodeProto) -> tuple[str, ...]:
        """The inputs that depend on the rows."""
        return tuple(name for name in node.input if name in self._flowing)

    def holds_numbers(self, tensor: str) -> bool:
        """Whether it depends on what the rows hold, not only on how many there are."""
        return tensor in self._numbers

    def is_zero(self, tensor: str) -> bool:
        """Whether it is zeros for any rows."""
        return not self.holds_numbers(tensor) and not np.any(self._values[tensor])

    def knows(self, tensor: str) -> bool:
        """Whether there is such a tensor, in the model or imagined."""
        return tensor in self._values

    def imagine(self, node: onnx.NodeProto, value: Array) -> None:
        """Adds an operator that stands for some of the model's; the model does not change."""
        (output,) = node.output
        self._producers[output] = node
        self._values[output] = value
        self._positions[output] = len(self._positions)  # behind what it reads
        self._n_readers.update(node.input)
        if any(map(self.holds_numbers, node.input)):
            self._numbers |= {output}
            self._flowing |= {output}

    def imagine_fixed(self, name: str, value: Array) -> None:
        """Adds a constant."""
        self._values[name] = value

    # ----- below

    def _steady(
        self, model: onnx.ModelProto, feeds: Mapping[str, Array], told: frozenset[str]
    ) -> frozenset[str]:
        """Those that depend on the shape of a row, but not on how many rows there are."""
        if not told or any(_first_size(entry) for entry in model.graph.input):
            return told
        if self.n < 2:
            return frozenset()
        fewer = _all_values(model, {name: rows[1:] for name, rows in feeds.items()})
        return frozenset(name for name in told if np.array_equal(fewer[name], self._values[name]))


def operand(node: onnx.NodeProto, i: int) -> str:
    """The name of input ``i``; empty where it is left out."""
    return node.input[i] if i < len(node.input) else ""


def channel_axis(value: Array, shape: Shape) -> int | None:
    """The axis of a row that a fixed array beside it has one number for; None if several.

    Axis 0 where it is a single number.
    """
    beside = (1,) * (1 + len(shape) - value.ndim) + value.shape
    if len(beside) > 1 + len(shape) or beside[0] != 1:
        return None
    long = [axis for axis, n in enumerate(beside[1:]) if n > 1]
    if len(long) > 1 or any(beside[axis + 1] != shape[axis] for axis in long):
        return None
    return long[0] if long else 0


def _behind(
    nodes: Sequence[onnx.NodeProto], inputs: frozenset[str], *, through_shapes: bool
) -> frozenset[str]:
    """What is computed from the inputs; from their shapes alone only where asked for."""
    flowing = set(inputs)
    for node in nodes:  # which ONNX keeps in topological order
        if node.op_type in _TELLS_SHAPE and not through_shapes:
            continue
        if any(name in flowing for name in node.input):
            flowing.update(name for name in node.output if name)
    return frozenset(flowing)


def _first_size(entry: onnx.ValueInfoProto) -> int:
    """Of the axis of rows; 0 where it is free."""
    dims = entry.type.tensor_type.shape.dim
    return dims[0].dim_value if dims else 0


def _all_values(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    told = onnx.ModelProto()
    told.CopyFrom(model)
    given = {entry.name for entry in told.graph.output}
    made = [name for node in told.graph.node for name in node.output if name]
    told.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in given)
    values = Session(told.SerializeToString(), name="model with all its tensors told").run(feeds)
    return {name: np.asarray(value) for name, value in values.items()}
