"""The models of the proof of batching, and the rows they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.serving import models

Array = NDArray[Any]

POOL_ROWS = 64

# Of the largest value of the reference. Where a kernel sums in another order for several rows than
# for one (a product of a matrix and a vector), n terms of float32 differ by about sqrt(n) * 6e-8:
# 3e-6 for the widest sum here, 2048 terms. Another row's answer is off by far more. (With ONNX
# Runtime 1.31 on x86-64 with AVX-512 these too were bit-equal.)
SUM_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Model:
    """One model of the proof.

    Attributes:
        name: in the repository.
        content: the ONNX file.
        make: rng and a variant -> a pool of rows by input name; variants differ in shape.
        variants: how many shapes there are.
        tolerance: 0: bit-equal, as each row goes through the same sums alone and in company.
        joins: whether rows of a request are independent; else a request is compared whole.
    """

    name: str
    content: bytes
    make: Callable[[np.random.Generator, int], dict[str, Array]]
    variants: int = 1
    tolerance: float = 0.0
    joins: bool = True


def proof_models() -> list[Model]:
    """Every kind of model that there is a reason for."""
    return [
        Model("mlp", models.mlp(), _floats(input=(8,)), tolerance=SUM_TOLERANCE),
        Model("wide", models.mlp(1, 512, 2048, 10), _floats(input=(512,)), tolerance=SUM_TOLERANCE),
        Model("conv", convolution(), _floats(x=(1, 8, 8)), tolerance=SUM_TOLERANCE),
        Model("lstm", lstm(), _sequences, variants=3, tolerance=SUM_TOLERANCE),
        Model("pair", models.add_and_subtract(), _pairs, variants=3),
        Model("int8", quantized(), _floats(x=(16,))),
        Model("text", text(), _texts),
        Model("lookup", models.lookup(), _indexes),
        Model("mean", models.minus_batch_mean(), _floats(x=(4,)), joins=False),
        Model("dynamic", models.dynamic_quantization(), _floats(x=(4,)), joins=False),
    ]


def convolution() -> bytes:
    rng = np.random.default_rng(2)
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["p"]),
        helper.make_node("Flatten", ["p"], ["means"]),
    ]
    return models.model_bytes(
        nodes,
        {"x": (TensorProto.FLOAT, ["batch", 1, 8, 8])},
        {
            "maps": (TensorProto.FLOAT, ["batch", 4, 8, 8]),
            "means": (TensorProto.FLOAT, ["batch", 4]),
        },
        {"k": rng.standard_normal((4, 1, 3, 3)).astype(np.float32)},
    )


def lstm(size: int = 6, hidden: int = 5) -> bytes:
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["steps", "w", "r"], ["all", "end"], hidden_size=hidden),
        helper.make_node("Squeeze", ["all", "direction"], ["states"]),
        helper.make_node("Transpose", ["states"], ["sequence"], perm=[1, 0, 2]),
        helper.make_node("Squeeze", ["end", "first"], ["last"]),
    ]
    return models.model_bytes(
        nodes,
        {"x": (TensorProto.FLOAT, ["batch", "time", size])},
        {
            "last": (TensorProto.FLOAT, ["batch", hidden]),
            "sequence": (TensorProto.FLOAT, ["batch", "time", hidden]),
        },
        {
            "w": rng.standard_normal((1, 4 * hidden, size)).astype(np.float32),
            "r": rng.standard_normal((1, 4 * hidden, hidden)).astype(np.float32),
            "direction": np.array([1], np.int64),
            "first": np.array([0], np.int64),
        },
    )


def quantized() -> bytes:
    """An int8 layer in QDQ form; whole numbers sum to the same in any order."""
    rng = np.random.default_rng(4)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "ms", "xz"], ["mq"]),
        helper.make_node("DequantizeLinear", ["mq", "ms", "xz"], ["y"]),
    ]
    return models.model_bytes(
        nodes,
        {"x": (TensorProto.FLOAT, ["batch", 16])},
        {"y": (TensorProto.FLOAT, ["batch", 8])},
        {
            "xs": np.float32(0.03),
            "xz": np.uint8(128),
            "wq": rng.integers(-127, 128, (16, 8)).astype(np.int8),
            "ws": np.float32(0.01),
            "wz": np.int8(0),
            "ms": np.float32(0.1),
        },
    )


def text() -> bytes:
    kind = (TensorProto.STRING, ["batch", 2])
    nodes = [
        helper.make_node("StringConcat", ["x", "x"], ["twice"]),
        helper.make_node("Identity", ["x"], ["same"]),
    ]
    return models.model_bytes(nodes, {"x": kind}, {"twice": kind, "same": kind})


# ----- pools of rows -----


def _floats(**shapes: tuple[int, ...]) -> Callable[[np.random.Generator, int], dict[str, Array]]:
    def make(rng: np.random.Generator, variant: int) -> dict[str, Array]:
        return {
            name: rng.standard_normal((POOL_ROWS, *shape)).astype(np.float32)
            for name, shape in shapes.items()
        }

    return make


def _sequences(rng: np.random.Generator, variant: int) -> dict[str, Array]:
    return {"x": rng.standard_normal((POOL_ROWS, 2 + 3 * variant, 6)).astype(np.float32)}


def _pairs(rng: np.random.Generator, variant: int) -> dict[str, Array]:
    return _floats(a=(variant + 1,), b=(variant + 1,))(rng, variant)


def _texts(rng: np.random.Generator, variant: int) -> dict[str, Array]:
    words = [f"{'ä' * (i % 7)}{i}".encode() for i in range(2 * POOL_ROWS)]
    return {"x": np.array(words, dtype=object).reshape(POOL_ROWS, 2)}


def _indexes(rng: np.random.Generator, variant: int) -> dict[str, Array]:
    indexes = rng.integers(0, 4, POOL_ROWS)
    indexes[::16] = 99  # out of the table: these rows fail, alone and in company
    return {"index": indexes}
