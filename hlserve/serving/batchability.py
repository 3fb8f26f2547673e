"""Whether a model's rows may be joined: found out by trying, not by believing declared shapes.

Time-major outputs, statistics over the batch, dynamic quantization, random nodes and fixed batch
sizes all look like a batch axis or hide behind one. So three runs are compared: rows a, rows b,
and both joined.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlserve import datatypes
from hlserve.errors import HlserveError
from hlserve.serving.session import Session, TensorInfo

Array = NDArray[Any]

# One row, then two: an axis that is not the batch can match one of the counts, not all three.
_FIRST_ROWS, _ALL_ROWS = 1, 3
# Sizes tried for variable dimensions other than the batch, until the model runs; the last fit
# images through a deep stack of strides.
_SIZES = (8, 1, 2, 32, 224)
# Rows differ in magnitude, so that a scale taken over the whole batch shows.
_ROW_SCALES = (1.0, 8.0, 0.125)
# Kernels sum in an order that depends on the batch: 1e-6 of the largest value a layer in fp32,
# some times that over a deep model. A scale or mean over the batch moves values by percents.
_TOLERANCE = 1e-4
_BF16_EPS = 2.0**-7  # seven bits behind the point


def why_not_batchable(session: Session, golden: Mapping[str, Array] | None = None) -> str | None:
    """None where joined rows give what they give alone; else the reason, for the log.

    Args:
        session: the model.
        golden: real inputs by name; used where made-up values do not run.
    """
    reason = _declared_reason(session)
    if reason is not None:
        return reason
    for sample in _samples(session.inputs, golden):
        try:
            return _compare(session, sample)
        except HlserveError as error:
            reason = f"no sample input ran: {error}"
    return reason or "no sample input could be made"


def sample_inputs(inputs: Sequence[TensorInfo], size: int, rows: int) -> dict[str, Array]:
    """Made-up values for every input: ``rows`` along a variable first axis, ``size`` elsewhere."""
    rng = np.random.default_rng(0)
    return {tensor.name: _sample(tensor, size, rows, rng) for tensor in inputs}


def first_sample_that_runs(session: Session, rows: int = 2) -> dict[str, Array]:
    """Made-up inputs that the model takes.

    Raises:
        InferenceError: it takes none of those tried; the last one's reason.
    """
    error: HlserveError | None = None
    for size in _SIZES:
        sample = sample_inputs(session.inputs, size, rows)
        try:
            session.run(sample, [tensor.name for tensor in session.outputs])
        except HlserveError as failure:
            error = failure
        else:
            return sample
    assert error is not None
    raise error


def _declared_reason(session: Session) -> str | None:
    if not session.inputs:
        return "it has no inputs"
    for tensor in (*session.inputs, *session.outputs):
        if not tensor.shape:
            return f"{tensor.name!r} is a scalar or has no stated rank"
    for tensor in session.inputs:
        if tensor.shape[0] != -1:
            return f"input {tensor.name!r} has a fixed first dimension, {tensor.shape[0]}"
    if len({tensor.symbols[0] for tensor in session.inputs}) > 1:
        return "its inputs differ in their first dimension"
    return None


def _samples(
    inputs: Sequence[TensorInfo], golden: Mapping[str, Array] | None
) -> Iterator[Mapping[str, Array]]:
    for size in _SIZES:
        yield sample_inputs(inputs, size, _ALL_ROWS)
    if golden and all(len(array) >= _ALL_ROWS for array in golden.values()):
        yield {name: array[:_ALL_ROWS] for name, array in golden.items()}


def _sample(tensor: TensorInfo, size: int, rows: int, rng: np.random.Generator) -> Array:
    shape = tuple(
        dim if dim >= 0 else (rows if axis == 0 else size) for axis, dim in enumerate(tensor.shape)
    )
    dtype = tensor.datatype.dtype
    if dtype.kind == "O":
        texts = np.empty(shape, dtype=object)
        texts.ravel()[:] = [b"%d" % (index % 3) for index in range(texts.size)]
        return texts
    if dtype.kind in "iub":
        return rng.integers(0, 2, shape).astype(dtype)  # ids and masks: 0 and 1 always exist
    values = rng.random(shape)
    for row in range(min(len(shape) and shape[0], len(_ROW_SCALES))):
        values[row] *= _ROW_SCALES[row]
    return datatypes.round_to_bf16(values) if dtype == datatypes.BF16_BITS else values.astype(dtype)


def _compare(session: Session, sample: Mapping[str, Array]) -> str | None:
    names = [tensor.name for tensor in session.outputs]
    first = session.run({n: a[:_FIRST_ROWS] for n, a in sample.items()}, names)
    rest = session.run({n: a[_FIRST_ROWS:] for n, a in sample.items()}, names)
    joined = session.run(sample, names)
    for name in names:
        alone = (first[name], rest[name])
        counts = [len(a) if a.ndim else 0 for a in (*alone, joined[name])]
        if counts != [_FIRST_ROWS, _ALL_ROWS - _FIRST_ROWS, _ALL_ROWS]:
            return f"output {name!r} is not batch-first: shape {joined[name].shape}"
        if alone[0].shape[1:] != alone[1].shape[1:] or alone[0].shape[1:] != joined[name].shape[1:]:
            return f"output {name!r} changes its shape with the rows"
        if not _is_close(np.concatenate(alone), joined[name]):
            return f"output {name!r} of a row depends on the rows beside it"
    return None


def _is_close(alone: Array, joined: Array) -> bool:
    eps = _BF16_EPS
    if alone.dtype == datatypes.BF16_BITS:
        alone, joined = datatypes.widen_bf16(alone), datatypes.widen_bf16(joined)
    elif alone.dtype.kind != "f":
        return bool(np.array_equal(alone, joined))
    else:
        eps = float(np.finfo(alone.dtype).eps)
    tolerance = max(_TOLERANCE, 8 * eps)
    finite = np.abs(alone[np.isfinite(alone)]).astype(np.float64)
    scale = float(finite.max()) if finite.size else 0.0
    return bool(
        np.allclose(
            alone.astype(np.float64), joined, rtol=0, atol=tolerance * scale, equal_nan=True
        )
    )
