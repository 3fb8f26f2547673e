"""What a graph's activations are over rows, in memory that does not grow with the rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx

from compress.quantization.histogram import Histogram
from compress.quantization.observer import observed
from compress.session import Session
from hlserve.nn.param import Array

ROWS = 8  # a run: every observed activation of so many rows is in memory at a time


def histograms(
    model: onnx.ModelProto,
    names: Sequence[str],
    feeds: Mapping[str, Array],
    *,
    batch: int | None = None,
) -> dict[str, Histogram]:
    """What each activation of floats among ``names`` holds; others are left out.

    The rows are run once, a few at a time.

    Args:
        model: stays as it is.
        names: inputs of the model or outputs of its nodes, outside bodies.
        feeds: rows by input.
        batch: rows a run, where the model takes only one number of them.

    Raises:
        ModelFileError, DataError: the model does not load or run with these outputs.
    """
    return observed(activations(model, names, feeds, batch=batch))


def activations(
    model: onnx.ModelProto,
    names: Sequence[str],
    feeds: Mapping[str, Array],
    *,
    batch: int | None = None,
) -> Iterator[dict[str, Array]]:
    """The activations themselves, a few rows at a time; see ``histograms``."""
    session = Session(_observed(model, names).SerializeToString())
    wanted = set(names)
    for rows in batches(feeds, batch):
        values = {**rows, **session.run(rows)}
        yield {
            name: array
            for name, array in values.items()
            if name in wanted and array.dtype.kind == "f" and array.size
        }


def batches(feeds: Mapping[str, Array], batch: int | None) -> Iterator[dict[str, Array]]:
    """A few rows at a time; as many as ``batch`` says, counted round, where it is given."""
    n = len(next(iter(feeds.values())))
    step = batch or ROWS
    for start in range(0, n, step):
        indices = np.arange(start, start + step if batch else min(start + step, n)) % n
        yield {name: array[indices] for name, array in feeds.items()}


# ----- below


def _observed(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {entry.name for entry in (*copy.graph.output, *copy.graph.input)}
    made = {name for node in copy.graph.node for name in node.output}
    copy.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name in made - known
    )
    return copy
