"""Which operators of any ONNX graph run in integers: whole islands that ONNX Runtime fuses.

1. A layer (Conv, Gemm, MatMul) does if its weights are constants.
2. A neighbour (Add, Concat, pooling, a product of two activations, ...) does only if all that it
   reads comes from such an operator already: a lone one would pay for turning floats into
   integers and back.
3. What only moves numbers (MaxPool, Reshape, Transpose) hands integers on and starts no island.

Convolutions with a weight matrix smaller than ``WIDE`` are slower in integers than in floats, and
depthwise ones gain nothing (measured: a PP-LCNet gains 1.2x where only its wide layers are
quantized, and loses a quarter where all are); the choice ``wide`` leaves them in floats.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx

from compress.model_file import attribute
from compress.quantization.graph_form import weights

Layers = Literal["all", "wide"]

WIDE = 2**15  # weights of a layer
LAYERS = ("Conv", "Gemm", "MatMul")
MOVERS = ("Flatten", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
NEIGHBOURS = (
    *("Add", "AveragePool", "Clip", "Concat", "GlobalAveragePool", "LeakyRelu", "Mul", "Relu"),
    *("Sigmoid", *MOVERS),
)


def select(
    model: onnx.ModelProto, operators: tuple[str, ...], layers: Layers = "all"
) -> list[onnx.NodeProto]:
    """The nodes to quantize, in order; every node must have a name of its own.

    Args:
        model: its bodies are not looked into.
        operators: the only kinds to take.
        layers: which of those with weights.
    """
    constant = weights(model.graph)
    integers: set[str] = set()
    chosen: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type not in operators:
            continue
        if _has_weights(node, constant):
            if layers == "wide" and not _is_wide(node, constant):
                continue
        elif not _reads_integers(node, integers, constant):
            continue
        chosen.append(node)
        integers.update(node.output)
    starts = [node for node in chosen if _has_weights(node, constant)]
    return chosen if starts else []


def _has_weights(node: onnx.NodeProto, constant: dict[str, onnx.TensorProto]) -> bool:
    return node.op_type in LAYERS and len(node.input) > 1 and node.input[1] in constant


def _is_wide(node: onnx.NodeProto, constant: dict[str, onnx.TensorProto]) -> bool:
    dims = constant[node.input[1]].dims
    is_grouped = node.op_type == "Conv" and attribute(node, "group", 1) > 1
    is_depthwise = is_grouped and dims[1] == 1 and dims[0] > 1
    return not is_depthwise and int(np.prod(dims)) >= WIDE


def _reads_integers(
    node: onnx.NodeProto, integers: set[str], constant: dict[str, onnx.TensorProto]
) -> bool:
    """Whether it computes with nothing but integers; a constant beside them is quantized too."""
    is_joining = node.op_type in ("Add", "Concat", "Mul", "MatMul", "Gemm")
    data = [name for name in node.input if name] if is_joining else [node.input[0]]
    computed = [name for name in data if name not in constant]
    return bool(computed) and all(name in integers for name in computed)
