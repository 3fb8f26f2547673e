"""An ONNX graph cleaned before anything else: constants folded, operators brought up to date."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import final

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper
from onnxscript import optimizer, rewriter, version_converter
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_gemm_rule,
)

from compress.evaluate import take_rows
from compress.export import IR_VERSION, OPSET, check
from compress.graph_step import GraphStep
from compress.model_file import opset
from compress.session import Session
from hlserve.errors import CompressionError, DataError, ModelFileError
from hlserve.nn.param import Array

# Folding and fusing sum in another order; a real mistake is off by far more.
RTOL, ATOL = 1e-3, 1e-4
COMPARED_ROWS = 32

_TINY = float(np.finfo(np.float32).tiny)  # the smallest number with all its digits

# What the libraries raise on graphs that they do not understand.
_GRAPH_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
)


@final
@dataclass(frozen=True, slots=True)
class Simplify(GraphStep):
    """``simplify`` as a step of a recipe; what cannot be done to a graph is left out."""

    name: str = field(default="simplified", init=False)

    def apply(
        self, model: onnx.ModelProto, feeds: Mapping[str, Array], *, batch: int | None = None
    ) -> onnx.ModelProto:
        """See GraphStep."""
        return simplify(model, few_rows(feeds, batch=batch))[0]


def few_rows(feeds: Mapping[str, Array], *, batch: int | None) -> dict[str, Array]:
    """The rows that ``simplify`` compares on: the first ones, as many as the model takes.

    Raises:
        CompressionError: there are none.
    """
    rows = len(next(iter(feeds.values()), ()))
    if rows == 0:
        raise CompressionError("Simplify needs rows, to see that the model answers as before")
    return take_rows(feeds, np.arange(batch or min(rows, COMPARED_ROWS)))


def simplify(
    model: onnx.ModelProto, feeds: Mapping[str, Array]
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The model with constants folded, batch normalization fused and its opset brought to 21.

    Each step is kept only if the result loads and answers the rows as the original does. Weights
    that are denormal numbers become zeros in any case.

    Args:
        model: stays as it is.
        feeds: a few rows to compare on.

    Returns:
        The cleaned model, and notes on the steps that had to be left out and on weights that
        became zeros.
    """
    expected = Session(model.SerializeToString()).run(feeds)
    current, notes = model, []
    for name, step in (
        ("folding constants", _fold),
        (f"upgrading opset {opset(model)} to {OPSET}", _upgrade),
        ("fusing batch normalization", _fuse),
    ):
        with _quiet_libraries():
            try:
                changed = step(current)
                _require_equal(changed, feeds, expected)
            except (*_GRAPH_ERRORS, CompressionError, DataError, ModelFileError) as error:
                notes.append(f"{name} was left out: {_first_line(error)}")
                continue
        current = changed
    flushed, n_denormal = _without_denormals(current)
    if n_denormal:
        notes.append(
            f"{n_denormal} weights too small for a normal float32 (below {_TINY:.3g}) were set to "
            "zero: processors compute with such numbers many times slower"
        )
    return flushed, tuple(notes)


def _fold(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = ir.from_proto(model)
    optimizer.optimize(graph)
    return _without_stale_shapes(ir.to_proto(graph))


def _upgrade(model: onnx.ModelProto) -> onnx.ModelProto:
    if opset(model) >= OPSET:
        return model
    graph = ir.from_proto(model)
    version_converter.convert_version(graph, OPSET, fallback=True)
    upgraded = _without_stale_shapes(ir.to_proto(graph))
    if opset(upgraded) != OPSET:
        raise CompressionError("the converter has no way there")
    upgraded.ir_version = max(upgraded.ir_version, IR_VERSION)
    check(upgraded)
    return upgraded


def _fuse(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = ir.from_proto(model)
    rewriter.rewrite(graph, [fuse_batchnorm_into_conv_rule, fuse_batchnorm_into_gemm_rule])
    optimizer.optimize(graph)
    return _without_stale_shapes(ir.to_proto(graph))


def _without_denormals(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """The model with zeros for the float32 weights that are denormal numbers, and how many.

    Measured: a file a quarter of whose largest convolution is denormal runs 36 times as fast
    then. A sum cannot tell, unless all its terms are of that size.
    """
    flushed = onnx.ModelProto()
    flushed.CopyFrom(model)
    n_denormal = 0
    for tensor in _constants(flushed.graph):
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        array = numpy_helper.to_array(tensor)
        is_denormal = (array != 0) & (np.abs(array) < _TINY)
        if is_denormal.any():
            n_denormal += int(np.count_nonzero(is_denormal))
            zeros = np.where(is_denormal, np.float32(0), array)
            tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
    return (flushed, n_denormal) if n_denormal else (model, 0)


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initializers and the values of Constant nodes, those of bodies among them."""
    yield from graph.initializer
    for node in graph.node:
        for entry in node.attribute:
            if entry.HasField("t") and node.op_type == "Constant":
                yield entry.t
            for body in (*entry.graphs, *([entry.g] if entry.HasField("g") else ())):
                yield from _constants(body)


def _without_stale_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Shapes between operators are hints; after a rewrite they may contradict the graph."""
    del model.graph.value_info[:]
    return model


def _require_equal(
    model: onnx.ModelProto, feeds: Mapping[str, Array], expected: Mapping[str, Array]
) -> None:
    answers = Session(model.SerializeToString()).run(feeds)
    for name, wanted in expected.items():
        if not np.allclose(answers[name], wanted, rtol=RTOL, atol=ATOL, equal_nan=True):
            raise CompressionError(f"it changes output {name!r}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keeps what the libraries log about their own steps off the user's terminal."""
    logger = logging.getLogger("onnxscript")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
