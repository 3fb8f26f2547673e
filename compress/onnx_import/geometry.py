"""How a window slides, as Conv, ConvTranspose and pooling say it: sizes, pads, auto_pad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from compress.model_file import attribute
from compress.onnx_import.graph import Graph, RefusalError, operand

_AXES = (1, 2)  # that a layer may slide over


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes by axis; ``pads`` are ONNX's, first those before every axis, then those behind."""

    source: str
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[int, ...]

    @property
    def padding(self) -> int | tuple[int, ...]:
        """As a layer takes it: one number an axis where both sides have the same."""
        n = len(self.kernel)
        before, behind = self.pads[:n], self.pads[n:]
        if before != behind:
            return self.pads
        return before if n > 1 else before[0]


def geometry(
    graph: Graph, node: onnx.NodeProto, kernel: Sequence[int], *, fill: float | None = 0.0
) -> Geometry:
    """What a node says, and a Pad before it that fills with ``fill``; None takes in no Pad.

    Raises:
        RefusalError: there are other axes than one or two, or a negative pad.
    """
    n = len(kernel)
    if n not in _AXES:
        raise RefusalError(f"it slides over {n} axes; there are layers for one and two")
    stride = tuple(attribute(node, "strides", [1] * n))
    dilation = tuple(attribute(node, "dilations", [1] * n))
    source = node.input[0]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    pads = _pads(graph, node, reach, stride)
    if attribute(node, "ceil_mode", 0):
        pads = _reaching_over(graph, node, reach, stride, pads)
    outer = None if fill is None else padding_before(graph, source, fill)
    if outer is not None:
        source, added = outer
        pads = [one + other for one, other in zip(pads, added, strict=True)]
    if min(pads) < 0:
        raise RefusalError(f"pads {tuple(pads)} that cut something off")
    return Geometry(source, tuple(kernel), stride, dilation, tuple(pads))


def padding_before(graph: Graph, tensor: str, fill: float) -> tuple[str, list[int]] | None:
    """What a Pad of all places with this number reads, and its pads; None where there is none."""
    node = graph.made_by(tensor, "Pad")
    if node is None or attribute(node, "mode", "constant") != "constant":
        return None
    if pad_value(graph, node) != fill:
        return None
    pads = place_pads(graph, node)
    return None if pads is None or min(pads) < 0 else (node.input[0], pads)


def place_pads(graph: Graph, node: onnx.NodeProto) -> list[int] | None:
    """The pads of a Pad behind the channels; None where it pads rows or channels too."""
    n = len(graph.shape(node.input[0])) + 1
    given = graph.fixed(operand(node, 1)) if len(node.input) > 1 else None
    told = attribute(node, "pads", None) if given is None else given.tolist()
    if told is None:
        return None
    axes = graph.fixed(operand(node, 3)) if operand(node, 3) else None
    places = list(range(n)) if axes is None else [int(axis) % n for axis in axes]
    before, behind = [0] * n, [0] * n
    for i, axis in enumerate(places):
        before[axis], behind[axis] = int(told[i]), int(told[i + len(places)])
    is_plain = not any((*before[:2], *behind[:2])) and n > 2  # rows, channels
    return [*before[2:], *behind[2:]] if is_plain else None


def pad_value(graph: Graph, node: onnx.NodeProto) -> float | None:
    """What a Pad fills with; None where that is computed."""
    given = operand(node, 2)
    return graph.number(given) if given else float(attribute(node, "value", 0.0))


# ----- below


def _pads(
    graph: Graph, node: onnx.NodeProto, reach: Sequence[int], stride: Sequence[int]
) -> list[int]:
    """Told, or what makes as many places as SAME promises, the odd one behind or before."""
    n, way = len(reach), attribute(node, "auto_pad", "NOTSET")
    if way == "NOTSET":
        return list(attribute(node, "pads", [0] * 2 * n))
    if way == "VALID":
        return [0] * 2 * n
    sizes = graph.shape(node.input[0])[1:]
    before, behind = [], []
    for size, k, s in zip(sizes, reach, stride, strict=True):
        total = max(0, (-(-size // s) - 1) * s + k - size)
        less, more = total // 2, total - total // 2
        is_upper = way == "SAME_UPPER"
        before.append(less if is_upper else more)
        behind.append(more if is_upper else less)
    return [*before, *behind]


def _reaching_over(
    graph: Graph,
    node: onnx.NodeProto,
    reach: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[int],
) -> list[int]:
    """With as much padding behind as the last window of ceil_mode reaches over the edge."""
    sizes, places = graph.shape(node.input[0])[1:], graph.shape(node.output[0])[1:]
    n, grown = len(reach), list(pads)
    for i, (size, count) in enumerate(zip(sizes, places, strict=True)):
        needed = (count - 1) * stride[i] + reach[i] - size - pads[i]
        grown[n + i] = max(pads[n + i], needed)
    return grown
