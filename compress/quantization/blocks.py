"""Weights alone in 4 or 8 bits, a scale for every few of them; values stay floats.

For the fewest bytes: ONNX Runtime turns the weights back as it multiplies, which takes longer than
integers do, and no longer than floats only where reading the weights is what takes the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compress.graph_step import GraphStep
from compress.integrity import graphs
from compress.model_file import attribute, is_quantized
from compress.quantization.graph_form import (
    drop_unread,
    free_name,
    ready,
    set_nodes,
    taken_names,
    weights,
)
from hlserve.errors import CompressionError, ConfigError
from hlserve.nn.param import Array

DOMAIN = "com.microsoft"
LEAST_SAVED = 512  # bytes; under that a layer's names and attributes eat the gain
COMPUTES_IN_FLOATS = 1  # "accuracy_level"; others round values to integers, some processors' way

Bits = Literal[4, 8]
# Of a weight, by its name and whether it is transposed: its integers and their scales.
_Packed = dict[tuple[str, bool], tuple[str, str]]


@final
@dataclass(frozen=True, slots=True)
class BlockWeights(GraphStep):
    """Weights of dense layers as integers, each ``block`` of one output with a scale of its own.

    The weight of largest size in a block takes the integer of largest size, -2^(bits - 1), so its
    scale may be negative and no zero point is stored.

    Source: ONNX Runtime, contrib operator com.microsoft.MatMulNBits, for the form; llama.cpp,
    ggml-quants.c, quantize_row_q4_0_ref, for the scale.

    Attributes:
        name: what reports call it.
        bits: of a weight.
        block: weights with one scale; a power of two from 16 up.
    """

    name: str
    bits: Bits = 4
    block: int = 32

    def __post_init__(self) -> None:
        if self.block < 16 or self.block & (self.block - 1):
            raise ConfigError(
                f"BlockWeights: block is {self.block}, expected a power of two from 16 up"
            )

    def apply(
        self, model: onnx.ModelProto, feeds: Mapping[str, Array], *, batch: int | None = None
    ) -> onnx.ModelProto:
        """See GraphStep; reads no rows. Bodies of If, Loop and Scan are reached into."""
        if is_quantized(model):
            raise CompressionError(f"{self.name}: the file is quantized already")
        form = ready(model)
        whole, *bodies = graphs(form.graph)
        taken, shared = taken_names(whole), _Packed()
        n = sum(self._in_graph(body, whole, taken, shared) for body in bodies)
        if not n + self._in_graph(whole, whole, taken, shared):
            raise CompressionError(
                f"{self.name}: no Gemm without factors, or MatMul, has constant weights and is "
                "large enough to gain"
            )
        for graph in graphs(form.graph):
            drop_unread(graph)
        if not any(entry.domain == DOMAIN for entry in form.opset_import):
            form.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        return form

    # ----- below

    def _in_graph(
        self, graph: onnx.GraphProto, whole: onnx.GraphProto, taken: set[str], shared: _Packed
    ) -> int:
        """Changes the products of one graph, with its weights or the whole's; how many."""
        own = {} if graph is whole else weights(graph)
        outer, packed, n = weights(whole), _Packed(), 0
        written: list[onnx.NodeProto] = []
        for node in graph.node:
            name = node.input[1] if _is_plain(node) else ""
            tensor = own.get(name) or outer.get(name)
            weight = None if tensor is None else _weight(node, tensor)
            if weight is None or not self._pays(weight):
                written.append(node)
                continue
            home, known = (graph, packed) if name in own else (whole, shared)
            key = name, node.op_type == "Gemm" and bool(attribute(node, "transB", 0))
            if key not in known:
                known[key] = self._pack(home, name, weight, taken)
            written += self._product(node, known[key], weight, taken)
            n += 1
        set_nodes(graph, written)
        return n

    def _pays(self, weight: Array) -> bool:
        k, n = weight.shape
        blocks = n * -(-k // self.block)
        return bool(weight.nbytes - blocks * (self.block * self.bits // 8 + 4) >= LEAST_SAVED)

    def _pack(
        self, graph: onnx.GraphProto, name: str, weight: Array, taken: set[str]
    ) -> tuple[str, str]:
        integers, scales = block_integers(weight, self.bits, self.block)
        blocks = numpy_helper.from_array(
            _packed(integers, self.bits), free_name(f"{name}_blocks", taken)
        )
        steps = numpy_helper.from_array(scales.reshape(-1), free_name(f"{name}_scales", taken))
        graph.initializer.extend([blocks, steps])
        return blocks.name, steps.name

    def _product(
        self, node: onnx.NodeProto, packed: tuple[str, str], weight: Array, taken: set[str]
    ) -> list[onnx.NodeProto]:
        """The operator that takes a node's place, and what adds the bias of a Gemm."""
        bias = node.input[2] if len(node.input) > 2 else ""
        product = free_name(f"{node.output[0]}_product", taken) if bias else node.output[0]
        new = helper.make_node(
            "MatMulNBits",
            [node.input[0], *packed],
            [product],
            node.name,
            domain=DOMAIN,
            K=weight.shape[0],
            N=weight.shape[1],
            bits=self.bits,
            block_size=self.block,
            accuracy_level=COMPUTES_IN_FLOATS,
        )
        if not bias:
            return [new]
        return [
            new,
            helper.make_node("Add", [product, bias], [node.output[0]], f"{node.name}_bias"),
        ]


INT4_WEIGHTS = BlockWeights("int4 weights")
INT8_WEIGHTS = BlockWeights("int8 weights", bits=8)


def block_integers(
    weight: Array, bits: Bits, block: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The weights as unsigned integers around the middle 2^(bits - 1), and their scales.

    Shapes: weight (k, n) of float32; integers (n, blocks, block), the last block filled with the
    middle, which is zero; scales (n, blocks).
    """
    k, n = weight.shape
    blocks, middle = -(-k // block), 2 ** (bits - 1)
    padded = np.zeros((n, blocks * block), np.float64)
    padded[:, :k] = weight.T
    parts = padded.reshape(n, blocks, block)
    farthest = np.abs(parts).argmax(axis=2)[:, :, None]
    scales = (np.take_along_axis(parts, farthest, axis=2) / -middle).astype(np.float32)
    steps = np.where(np.abs(scales) > np.finfo(np.float32).tiny, scales, 1).astype(np.float64)
    integers = np.clip(np.rint(parts / steps) + middle, 0, 2 * middle - 1)
    return integers.astype(np.uint8), steps[:, :, 0].astype(np.float32)


# ----- below


def _is_plain(node: onnx.NodeProto) -> bool:
    """Whether a product and a sum are all that it is."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in ("MatMul", "Gemm"):
        return False
    if node.op_type == "MatMul":
        return True
    factors = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    return factors == (1.0, 1.0) and not attribute(node, "transA", 0)


def _weight(node: onnx.NodeProto, tensor: onnx.TensorProto) -> Array | None:
    """(k, n) of what a node multiplies by; None where it is no matrix of float32."""
    if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) != 2:
        return None
    values: Array = numpy_helper.to_array(tensor)
    return values.T if node.op_type == "Gemm" and attribute(node, "transB", 0) else values


def _packed(integers: NDArray[np.uint8], bits: Bits) -> NDArray[np.uint8]:
    """Two weights a byte where four bits are enough, the first in the lower half."""
    if bits == 8:
        return integers
    lower, upper = integers[:, :, ::2], integers[:, :, 1::2]
    return np.asarray(lower | (upper << 4), np.uint8)
