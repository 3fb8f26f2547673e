"""From a spec and rows to a freshly initialized network that takes raw values."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from hlserve.errors import ConfigError, DataError
from hlserve.nn.architectures.convolutional import CNN
from hlserve.nn.architectures.dense import MLP
from hlserve.nn.architectures.family import Draft, Family, Spec
from hlserve.nn.architectures.lenet import LENET5, LENET5_CAFFE
from hlserve.nn.architectures.residual import RESNET
from hlserve.nn.layer import Layer, Shape
from hlserve.nn.layers import Softmax
from hlserve.nn.network import Input, Network, Task
from hlserve.nn.param import Array
from hlserve.nn.preprocessing import Scale, Standardize

FAMILIES: tuple[Family, ...] = (
    MLP,
    LENET5,
    LENET5_CAFFE,
    CNN,
    RESNET,
)

KNOWN = ", ".join(family.known for family in FAMILIES)

_STATISTICS_ROWS = 4096  # at a time, so that no second copy of the rows is made

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

    Its input is named ``input``; its output ``probabilities`` for classification, else
    ``output``. What lies between is the family's: one file each beside this one.

    Specs: ``mlp:300,100``, ReLU layers of these sizes. ``lenet5``, LeCun et al. 1998 with 6
    and 16 filters of 5x5, the first padded by 2, and 120-84; ReLU and max pooling where the
    paper has tanh and trained averages. ``lenet5-caffe``, Caffe's variant for MNIST of 20 and
    50 filters and 500, 431,080 parameters; with ReLU behind each pooling, where Caffe's
    has none. ``cnn:32,64/128``, stages of 3x3 convolution, batch normalization, pooling and
    ReLU with these numbers of filters, then dense layers. ``resnet:8`` (14, 20, ...), residual
    blocks with 16, 32 and 64 filters behind a stem of stride 2 (He et al. 2016).

    Args:
        spec: see above.
        input_shape: of one row of the data; the spec's family may give it another form, as
            ``mlp`` flattens it.
        n_outputs: classes, or numbers to predict.
        task: decides how the network closes.
        scale: what raw values are multiplied with, such as 1/255 for pixels.
        standardize: of the input's columns, instead of ``scale``.
        standardize_targets: the network closes by turning standardized predictions into the
            targets' units, so that it trains alike whatever these are.
        class_labels: what the classes are called.
        units: what the raw values are.
        seed: of the starting weights.

    Raises:
        ConfigError: the spec is unknown, or does not fit rows of this shape.
    """
    wanted = _spec(spec, input_shape, n_outputs)
    family, draft = _family(wanted), Draft()
    value = draft.input(Input("input", family.row_shape(wanted), family.dtype, units))
    value = draft.chain(_preprocessing(scale, standardize), value)
    value = family.hidden(wanted, draft, value)
    value = draft.chain(_closing(task, standardize_targets), value)
    network = Network(
        draft.inputs,
        draft.nodes,
        {"probabilities" if task == "classification" else "output": value},
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
    other types by their largest value; other rows are standardized column by column, series
    (time, columns) over time too, and so are regression targets. Ids stay as they are.

    Args:
        spec: see ``build``.
        rows: (rows, ...), the training rows alone, so that nothing of others leaks in.
        targets: class labels (rows,), or numbers (rows,) or (rows, outputs).
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
    is_classification = task == "classification"
    n_outputs = _n_outputs(targets, is_classification, class_labels)
    wanted = _spec(spec, rows.shape[1:], n_outputs)
    family = _family(wanted)
    takes_numbers = family.dtype == "float32"
    is_image = rows.dtype == np.uint8 or rows.ndim == 4
    columns = rows.reshape(-1, family.row_shape(wanted)[-1])  # what Standardize goes by
    return build(
        spec,
        input_shape=rows.shape[1:],
        n_outputs=n_outputs,
        task=task,
        scale=_image_scale(rows) if takes_numbers and is_image else None,
        standardize=_statistics(columns) if takes_numbers and not is_image else None,
        standardize_targets=None if is_classification else _statistics(targets),
        class_labels=class_labels,
        units=units,
        seed=seed,
    )


def _spec(text: str, input_shape: Shape, n_outputs: int) -> Spec:
    if n_outputs < 1:
        raise ConfigError(f"n_outputs is {n_outputs}, expected 1 or more")
    kind, _, arguments = text.partition(":")
    return Spec(text, kind, arguments, tuple(input_shape), n_outputs)


def _family(spec: Spec) -> Family:
    for family in FAMILIES:
        if family.kind == spec.kind:
            return family
    raise ConfigError(f"unknown architecture {spec.text!r}; known are {KNOWN}")


def _preprocessing(scale: float | None, standardize: Statistics | None) -> list[Layer]:
    if scale is not None and standardize is not None:
        raise ConfigError("give either scale or standardize, not both")
    if scale is not None:
        return [Scale(scale)]
    return [] if standardize is None else [Standardize(*standardize)]


def _closing(task: Task, standardize_targets: Statistics | None) -> list[Layer]:
    if task == "classification":
        return [Softmax()]
    if standardize_targets is None:
        return []
    mean, deviation = standardize_targets
    # The way back, deviation * z + mean, is itself a standardization.
    pairs = list(zip(mean, deviation, strict=True))
    return [Standardize([-m / d for m, d in pairs], [1.0 / d for _, d in pairs])]


def _n_outputs(targets: Array, is_classification: bool, class_labels: Sequence[str] | None) -> int:
    if not is_classification:
        return prod(targets.shape[1:])
    return int(targets.max()) + 1 if class_labels is None else len(class_labels)


def _image_scale(rows: Array) -> float:
    if rows.dtype == np.uint8:
        return 1.0 / 16.0 if rows.max() <= 16 else 1.0 / 255.0
    largest = max(abs(float(rows.min())), abs(float(rows.max())))
    return 1.0 / largest if largest > 0 else 1.0


def _statistics(rows: Array) -> Statistics:
    """Mean and standard deviation of every column, float64; 1 where a column is constant."""
    columns = rows.reshape(len(rows), -1)
    mean = columns.mean(axis=0, dtype=np.float64)
    squares = np.zeros_like(mean)
    for start in range(0, len(columns), _STATISTICS_ROWS):
        squares += np.square(columns[start : start + _STATISTICS_ROWS] - mean).sum(axis=0)
    deviation = np.sqrt(squares / len(columns))
    # A constant column deviates by rounding alone; dividing by that would blow it up.
    is_constant = deviation <= np.finfo(np.float32).eps * np.abs(mean)
    return mean.tolist(), np.where(is_constant, 1.0, deviation).tolist()
