"""What a family of architectures is, and the draft that it adds its layers to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hlserve.errors import ConfigError
from hlserve.nn.layer import Layer, Shape
from hlserve.nn.network import Input, Node
from hlserve.nn.spec_options import ACTIVATIONS


@dataclass(frozen=True, slots=True)
class Spec:
    """What a text such as ``mlp:300,100`` asks for, and the rows that it shall take.

    Attributes:
        text: as the user wrote it.
        kind: what stands before the colon.
        arguments: what stands behind it; empty without a colon.
        input_shape: of one row of the data.
        n_outputs: classes, or numbers to predict.
        n_ids: how many ids there are, where rows are ids of words; None for numbers.
        has_mask: whether the data says which steps of a sequence there are.
    """

    text: str
    kind: str
    arguments: str
    input_shape: Shape
    n_outputs: int
    n_ids: int | None = None
    has_mask: bool = False


@dataclass(slots=True)
class Draft:
    """A graph in the making: inputs and nodes in order, named ``<layer kind>_<position>``.

    ``mask`` is the input that says which steps of a sequence there are, or None.
    """

    inputs: list[Input] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    mask: str | None = None

    def masked(self, value: str) -> tuple[str, ...]:
        """What a layer reads that takes a mask where there is one."""
        return (value,) if self.mask is None else (value, self.mask)

    def input(self, entry: Input) -> str:
        """Adds an input of the network; answers its name."""
        self.inputs.append(entry)
        return entry.name

    def add(self, layer: Layer, *sources: str) -> str:
        """Adds a layer that reads these inputs or nodes; answers the new node's name."""
        name = f"{type(layer).__name__.lower()}_{len(self.nodes) + 1}"
        self.nodes.append(Node(name, layer, sources))
        return name

    def chain(self, layers: Iterable[Layer], source: str) -> str:
        """Adds layers one after another; answers the last one's name, or the source's."""
        for layer in layers:
            source = self.add(layer, source)
        return source


@dataclass(frozen=True, slots=True)
class Family:
    """The specs that share what stands before the colon.

    Attributes:
        kind: that word.
        known: how messages list the specs of the family.
        row_shape: the shape of one row as the network takes it; a ConfigError where the data's
            rows do not fit.
        hidden: adds everything between the preprocessed rows, whose name it gets, and the raw
            outputs, ``n_outputs`` numbers a row, whose name it answers.
        takes_sequences: whether it looks ids up in an embedding, and heeds a mask.
    """

    kind: str
    known: str
    row_shape: Callable[[Spec], Shape]
    hidden: Callable[[Spec, Draft, str], str]
    takes_sequences: bool = False


def sizes(spec: Spec, text: str, *, of: str) -> list[int]:
    """Whole numbers above zero, comma separated; ``of`` says what they are, for the message.

    Raises:
        ConfigError: the text is something else.
    """
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        odd = next((word.strip() for word in words if word.strip()[:1].isalpha()), None)
        hint = (
            f"; {odd!r} is no activation ({', '.join(ACTIVATIONS)}) or dropout=RATE" if odd else ""
        )
        raise ConfigError(f"architecture {spec.text!r}: expected {of}{hint}")
    return [int(word) for word in words]


def image_shape(spec: Spec, smallest: int) -> Shape:
    """The shape of the data's rows, which must be images.

    Raises:
        ConfigError: they are none, or smaller than ``smallest`` in height or width.
    """
    shape = spec.input_shape
    if len(shape) != 3 or min(shape[1:]) < smallest:
        raise ConfigError(
            f"architecture {spec.text!r} expects images (channels, height, width) of at least "
            f"{smallest}x{smallest}, the rows have shape {shape}; take an mlp, such as mlp:300,100"
        )
    return shape


def no_arguments(spec: Spec) -> None:
    """Refuses what stands behind the colon.

    Raises:
        ConfigError: something does.
    """
    if spec.text != spec.kind:
        raise ConfigError(f"architecture {spec.text!r}: {spec.kind} takes no sizes, leave them out")
