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
from compress.model_file import is_quantized
from compress.quantization.graph_form import (
    drop_unread,
    free_name,
    ready,
    taken_names,
    weights,
)
from hlserve.errors import CompressionError, ConfigError
from hlserve.nn.param import Array

DOMAIN = "com.microsoft"
LEAST_SAVED = 512  # bytes; under that a layer's names and attributes eat the gain
COMPUTES_IN_FLOATS = 1  # "accuracy_level"; others round values to integers, some processors' way

Bits = Literal[4, 8]
_Packed = dict[str, tuple[str, str]]  # of a weight: its integers and their scales


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
        form = ready(model, gemm_as_matmul=True)
        whole, *bodies = graphs(form.graph)
        taken, shared = taken_names(whole), _Packed()
        n = sum(self._in_graph(body, whole, taken, shared) for body in bodies)
        if not n + self._in_graph(whole, whole, taken, shared):
            raise CompressionError(
                f"{self.name}: no Gemm or MatMul with constant weights is large enough to gain"
            )
        for graph in (whole, *bodies):
            drop_unread(graph)
        if not any(entry.domain == DOMAIN for entry in form.opset_import):
            form.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        return form

    # ----- below

    def _in_graph(
        self, graph: onnx.GraphProto, whole: onnx.GraphProto, taken: set[str], shared: _Packed
    ) -> int:
        """Changes the products of one graph, with its weights or the whole's; how many."""
        outer, packed = weights(whole), _Packed()
        own = {} if graph is whole else weights(graph)
        n = 0
        for node in graph.node:
            name = node.input[1] if node.op_type == "MatMul" else ""
            tensor = own.get(name) or outer.get(name)
            if tensor is None or not self._pays(tensor):
                continue
            home, known = (graph, packed) if name in own else (whole, shared)
            if name not in known:
                known[name] = self._pack(home, tensor, taken)
            self._replace(node, known[name], *tensor.dims)
            n += 1
        return n

    def _pays(self, tensor: onnx.TensorProto) -> bool:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) != 2:
            return False
        k, n = tensor.dims
        blocks = n * -(-k // self.block)
        return 4 * k * n - blocks * (self.block * self.bits // 8 + 4) >= LEAST_SAVED

    def _pack(
        self, graph: onnx.GraphProto, tensor: onnx.TensorProto, taken: set[str]
    ) -> tuple[str, str]:
        integers, scales = block_integers(numpy_helper.to_array(tensor), self.bits, self.block)
        blocks = numpy_helper.from_array(
            _packed(integers, self.bits), free_name(f"{tensor.name}_blocks", taken)
        )
        steps = numpy_helper.from_array(
            scales.reshape(-1), free_name(f"{tensor.name}_scales", taken)
        )
        graph.initializer.extend([blocks, steps])
        return blocks.name, steps.name

    def _replace(self, node: onnx.NodeProto, names: tuple[str, str], k: int, n: int) -> None:
        node.op_type, node.domain = "MatMulNBits", DOMAIN
        node.input[:] = [node.input[0], *names]
        settings = {
            "K": k,
            "N": n,
            "bits": self.bits,
            "block_size": self.block,
            "accuracy_level": COMPUTES_IN_FLOATS,
        }
        node.attribute.extend(helper.make_attribute(name, v) for name, v in settings.items())


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


def _packed(integers: NDArray[np.uint8], bits: Bits) -> NDArray[np.uint8]:
    """Two weights a byte where four bits are enough, the first in the lower half."""
    if bits == 8:
        return integers
    lower, upper = integers[:, :, ::2], integers[:, :, 1::2]
    return np.asarray(lower | (upper << 4), np.uint8)
