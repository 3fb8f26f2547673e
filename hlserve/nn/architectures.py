"""Networks by name: what a spec such as ``mlp:300,100`` stands for."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from hlserve.errors import ConfigError, DataError
from hlserve.nn.layer import Layer, Shape
from hlserve.nn.layers import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sigmoid, Softmax
from hlserve.nn.network import Input, Network, Task, sequential
from hlserve.nn.param import Array
from hlserve.nn.preprocessing import Scale, Standardize
from hlserve.row_blocks import row_blocks

KNOWN = "mlp:300,100 (one number a hidden layer), lenet5, lenet5-caffe"

Statistics = tuple[Sequence[float], Sequence[float]]  # mean and standard deviation, one a column


def build(
    spec: str,
    *,
    input_shape: Shape,
    n_outputs: int,
    task: Task,
    scale: float | None = None,
    standardize: Statistics | None = None,
    standardize_targets: Statistics | None = None,
    class_labels: Sequence[str] | None = None,
    units: str | None = None,
    seed: int = 0,
) -> Network:
    """A freshly initialized network that takes raw values.

    Its input is named ``input``; its output ``probabilities`` for classes and labels, else
    ``output``. ``mlp`` takes flat rows, the others (channels, height, width).

    Specs: ``mlp:300,100``, ReLU layers of these sizes. ``lenet5``, LeCun et al. 1998 with 6
    and 16 filters of 5x5, the first padded by 2, and 120-84; ReLU and max pooling where the
    paper has tanh and trained averages. ``lenet5-caffe``, Caffe's variant for MNIST of 20 and
    50 filters and 500, 431,080 parameters; with ReLU behind each convolution, where Caffe's
    has pooling alone.

    Args:
        spec: see above.
        input_shape: of one row of the data; ``mlp`` flattens it.
        n_outputs: classes, labels, or numbers to predict.
        task: decides how the network closes: Softmax for "classification", one class a row;
            Sigmoid for "multilabel", several yes-or-no labels a row.
        scale: what raw values are multiplied with, such as 1/255 for pixels.
        standardize: of the input's columns, instead of ``scale``.
        standardize_targets: the network closes by turning standardized predictions into the
            targets' units, so that it trains alike whatever these are.
        class_labels: what the classes or labels are called.
        units: what the raw values are.
        seed: of the starting weights.

    Raises:
        ConfigError: the spec is unknown, or does not fit rows of this shape.
    """
    if n_outputs < 1:
        raise ConfigError(f"n_outputs is {n_outputs}, expected 1 or more")
    shape, hidden = _hidden(spec, input_shape, n_outputs)
    entry = Input("input", shape, units=units)
    network = sequential(
        [*_preprocessing(scale, standardize), *hidden, *_closing(task, standardize_targets)],
        entry,
        output="output" if task == "regression" else "probabilities",
        task=task,
        class_labels=class_labels,
    )
    return network.initialize(np.random.default_rng(seed))


def build_for(
    spec: str,
    rows: Array,
    targets: Array,
    *,
    task: Task,
    class_labels: Sequence[str] | None = None,
    units: str | None = None,
    seed: int = 0,
) -> Network:
    """``build`` with what the training rows tell.

    uint8 rows are pixels and scaled to 0..1 by the depth they use (0..16 or 0..255), images of
    other types by their largest value; other rows are standardized column by column, and so
    are regression targets.

    Args:
        spec: see ``build``.
        rows: (rows, ...), the training rows alone, so that nothing of others leaks in.
        targets: class labels (rows,), or numbers (rows,) or (rows, outputs), 0 and 1 for
            several labels.
        task: see ``build``, and so for what follows.
        class_labels: their number is that of the outputs; without, the highest label decides.
        units: of the raw values.
        seed: of the starting weights.

    Raises:
        ConfigError: see ``build``.
        DataError: there are no rows.
    """
    if len(rows) == 0 or rows.ndim < 2:
        raise DataError(f"rows have shape {rows.shape}, expected (rows, ...) and at least one")
    is_image = rows.dtype == np.uint8 or rows.ndim == 4
    return build(
        spec,
        input_shape=rows.shape[1:],
        n_outputs=_n_outputs(targets, task, class_labels),
        task=task,
        scale=_image_scale(rows) if is_image else None,
        standardize=None if is_image else _statistics(rows),
        standardize_targets=_statistics(targets) if task == "regression" else None,
        class_labels=class_labels,
        units=units,
        seed=seed,
    )


def _hidden(spec: str, input_shape: Shape, n_outputs: int) -> tuple[Shape, list[Layer]]:
    kind, _, arguments = spec.partition(":")
    if kind == "mlp":
        features = prod(input_shape)
        return (features,), _mlp(_sizes(spec, arguments), features, n_outputs)
    if spec == "lenet5":
        return input_shape, _lenet5(_image_shape(spec, input_shape, smallest=12), n_outputs)
    if spec == "lenet5-caffe":
        return input_shape, _lenet5_caffe(_image_shape(spec, input_shape, smallest=16), n_outputs)
    raise ConfigError(f"unknown architecture {spec!r}; known are {KNOWN}")


def _sizes(spec: str, arguments: str) -> list[int]:
    words = arguments.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise ConfigError(
            f"architecture {spec!r}: expected the sizes of the hidden layers, as in mlp:300,100"
        )
    return [int(word) for word in words]


def _image_shape(spec: str, shape: Shape, smallest: int) -> Shape:
    if len(shape) != 3 or min(shape[1:]) < smallest:
        raise ConfigError(
            f"architecture {spec!r} expects images (channels, height, width) of at least "
            f"{smallest}x{smallest}, the rows have shape {shape}; take an mlp, such as mlp:300,100"
        )
    return shape


def _mlp(sizes: Sequence[int], n_features: int, n_outputs: int) -> list[Layer]:
    layers: list[Layer] = []
    for size in sizes:
        layers += [Linear(n_features, size), ReLU()]
        n_features = size
    return [*layers, Linear(n_features, n_outputs)]


def _lenet5(shape: Shape, n_outputs: int) -> list[Layer]:
    channels, height, width = shape
    flat = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
    return [
        *(Conv2d(channels, 6, 5, padding=2), ReLU(), MaxPool2d(2)),
        *(Conv2d(6, 16, 5), ReLU(), MaxPool2d(2)),
        *(Flatten(), Linear(flat, 120), ReLU()),
        *(Linear(120, 84), ReLU(), Linear(84, n_outputs)),
    ]


def _lenet5_caffe(shape: Shape, n_outputs: int) -> list[Layer]:
    channels, height, width = shape
    flat = 50 * (((height - 4) // 2 - 4) // 2) * (((width - 4) // 2 - 4) // 2)
    return [
        *(Conv2d(channels, 20, 5), ReLU(), MaxPool2d(2)),
        *(Conv2d(20, 50, 5), ReLU(), MaxPool2d(2)),
        *(Flatten(), Linear(flat, 500), ReLU(), Linear(500, n_outputs)),
    ]


def _preprocessing(scale: float | None, standardize: Statistics | None) -> list[Layer]:
    if scale is not None and standardize is not None:
        raise ConfigError("give either scale or standardize, not both")
    if scale is not None:
        return [Scale(scale)]
    return [] if standardize is None else [Standardize(*standardize)]


def _closing(task: Task, standardize_targets: Statistics | None) -> list[Layer]:
    if task == "classification":
        return [Softmax()]
    if task == "multilabel":
        return [Sigmoid()]
    if standardize_targets is None:
        return []
    mean, deviation = standardize_targets
    # The way back, deviation * z + mean, is itself a standardization.
    pairs = list(zip(mean, deviation, strict=True))
    return [Standardize([-m / d for m, d in pairs], [1.0 / d for _, d in pairs])]


def _n_outputs(targets: Array, task: Task, class_labels: Sequence[str] | None) -> int:
    if task != "classification":
        return prod(targets.shape[1:])
    if class_labels is not None:
        return len(class_labels)
    return max(int(block.max()) for _, block in row_blocks(targets)) + 1


def _image_scale(rows: Array) -> float:
    extremes = [(float(block.min()), float(block.max())) for _, block in row_blocks(rows)]
    largest = max(max(abs(low), abs(high)) for low, high in extremes)
    if rows.dtype == np.uint8:
        return 1.0 / 16.0 if largest <= 16 else 1.0 / 255.0
    return 1.0 / largest if largest > 0 else 1.0


def _statistics(rows: Array) -> Statistics:
    """Mean and standard deviation of every column, float64; 1 where a column is constant."""
    columns = rows.reshape(len(rows), -1)
    total = np.zeros(columns.shape[1])
    for _, block in row_blocks(columns):
        total += block.sum(axis=0, dtype=np.float64)
    mean = total / len(columns)
    squares = np.zeros_like(mean)
    for _, block in row_blocks(columns):
        squares += np.square(block - mean).sum(axis=0)
    deviation = np.sqrt(squares / len(columns))
    # A constant column deviates by rounding alone; dividing by that would blow it up.
    is_constant = deviation <= np.finfo(np.float32).eps * np.abs(mean)
    return mean.tolist(), np.where(is_constant, 1.0, deviation).tolist()
