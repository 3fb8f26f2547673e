"""From a spec and rows to a freshly initialized network that takes raw values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from hlserve.errors import ConfigError, DataError
from hlserve.nn.architectures.convolutional import CNN
from hlserve.nn.architectures.dense import MLP
from hlserve.nn.architectures.family import Draft, Family, Spec
from hlserve.nn.architectures.lenet import LENET5, LENET5_CAFFE
from hlserve.nn.architectures.recurrent import RECURRENT
from hlserve.nn.architectures.residual import RESNET
from hlserve.nn.architectures.transformer import TRANSFORMER
from hlserve.nn.layer import Layer, Shape
from hlserve.nn.layers import Dropout, Embedding, Linear, Sigmoid, Softmax
from hlserve.nn.network import Input, Network, Task
from hlserve.nn.param import Array
from hlserve.nn.preprocessing import Scale, Standardize
from hlserve.nn.spec_options import SpecOptions, split_options
from hlserve.nn.table import table_preprocessing
from hlserve.row_blocks import has_gaps, is_mapped, row_blocks

FAMILIES: tuple[Family, ...] = (
    MLP,
    LENET5,
    LENET5_CAFFE,
    CNN,
    RESNET,
    *RECURRENT,
    TRANSFORMER,
)

KNOWN = ", ".join(family.known for family in FAMILIES)

Statistics = tuple[Sequence[float], Sequence[float]]  # mean and standard deviation, one a column


def build(
    spec: str,
    *,
    input_shape: Shape,
    n_outputs: int,
    task: Task,
    scale: float | None = None,
    standardize: Statistics | None = None,
    preprocessing: Sequence[Layer] = (),
    standardize_targets: Statistics | None = None,
    class_labels: Sequence[str] | None = None,
    units: str | None = None,
    n_ids: int | None = None,
    has_mask: bool = False,
    seed: int = 0,
) -> Network:
    """A freshly initialized network that takes raw values.

    Its input is named ``input``; its output ``probabilities`` for classes and labels, else
    ``output``. What lies between is the family's: one file each beside this one. Networks over
    sequences have a second input ``mask`` where ``has_mask`` says that the data has one.

    Specs: ``mlp:300,100``, ReLU layers of these sizes. ``lenet5``, LeCun et al. 1998 with 6
    and 16 filters of 5x5, the first padded by 2, and 120-84; ReLU and max pooling where the
    paper has tanh and trained averages. ``lenet5-caffe``, Caffe's variant for MNIST of 20 and
    50 filters and 500, 431,080 parameters; with ReLU behind each convolution, where Caffe's
    has pooling alone. ``cnn:32,64/128``, stages of 3x3 convolution, batch normalization, ReLU
    and pooling with these numbers of filters, then dense layers. ``resnet:8`` (14, 20, ...),
    residual blocks with 16, 32 and 64 filters behind a stem of stride 2 (He et al. 2016).
    ``lstm:128``, ``gru:64,64``, ``rnn:64``, ``bilstm:64``, ...: recurrent layers of these sizes.
    ``transformer:64,4,2``: an encoder of this dim, with so many heads and blocks.
    Behind any of them may stand an activation and a dropout, as in
    ``mlp:300,100,tanh,dropout=0.2``; see ``spec_options``.

    Args:
        spec: see above.
        input_shape: of one row of the data; the spec's family may give it another form, as
            ``mlp`` flattens it.
        n_outputs: classes, labels, or numbers to predict.
        task: decides how the network closes: Softmax for "classification", one class a row;
            Sigmoid for "multilabel", several yes-or-no labels a row.
        scale: what raw values are multiplied with, such as 1/255 for pixels.
        standardize: of the input's columns, instead of ``scale``.
        preprocessing: layers ahead of the family's, instead of both; see ``table``.
        standardize_targets: the network closes by turning standardized predictions into the
            targets' units, so that it trains alike whatever these are.
        class_labels: what the classes or labels are called.
        units: what the raw values are.
        n_ids: rows are ids below this, (time,), and 0 is padding: an embedding looks them up.
        has_mask: the data has a mask (time,), int64, 1 for the steps that there are.
        seed: of the starting weights.

    Raises:
        ConfigError: the spec is unknown, or does not fit rows of this shape.
    """
    architecture, options = split_options(spec)
    wanted = _spec(architecture, input_shape, n_outputs, n_ids, has_mask)
    family, draft = _family(wanted), Draft()
    dtype = "float32" if n_ids is None else "int64"
    value = draft.input(Input("input", family.row_shape(wanted), dtype, units))
    if has_mask and _heeds_mask(wanted, family):
        draft.mask = draft.input(Input("mask", (input_shape[0],), "int64"))
    layers = _preprocessing(scale, standardize, preprocessing)
    value = draft.chain(layers, value)
    n_ahead = len(draft.nodes)
    if preprocessing:
        wanted = replace(wanted, input_shape=_shape_behind(layers, wanted.input_shape))
    value = family.hidden(wanted, draft, value)
    draft, value = _with_options(draft, n_ahead, value, options)
    value = draft.chain(_closing(task, standardize_targets), value)
    network = Network(
        draft.inputs,
        draft.nodes,
        {"output" if task == "regression" else "probabilities": value},
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
    n_ids: int | None = None,
    has_mask: bool = False,
    categories: Mapping[int, Sequence[int]] | None = None,
    will_have_gaps: bool = False,
    seed: int = 0,
) -> Network:
    """``build`` with what the training rows tell.

    uint8 rows are pixels and scaled to 0..1 by the depth they use (0..16 or 0..255), images of
    other types by their largest value; other rows are standardized column by column, series
    (time, columns) over time too, and so are regression targets. Ids stay as they are. Gaps (NaN)
    of a table are filled and its categories become a column each, see ``table``.

    Args:
        spec: see ``build``.
        rows: (rows, ...), the training rows alone, so that nothing of others leaks in.
        targets: class labels (rows,), or numbers (rows,) or (rows, outputs), 0 and 1 for
            several labels.
        task: see ``build``, and so for what follows.
        class_labels: their number is that of the outputs; without, the highest label decides.
        units: of the raw values.
        n_ids: see ``build``.
        has_mask: see ``build``.
        categories: for columns of a table that hold categories, the whole numbers that stand
            for them.
        will_have_gaps: whether a table's gaps are to be filled though these rows have none.
        seed: of the starting weights.

    Raises:
        ConfigError: see ``build``; or the rows have gaps or categories and are no table.
        DataError: there are no rows, or a category is not named.
    """
    if len(rows) == 0 or rows.ndim < 2:
        raise DataError(f"rows have shape {rows.shape}, expected (rows, ...) and at least one")
    n_outputs = _n_outputs(targets, task, class_labels)
    wanted = _spec(split_options(spec)[0], rows.shape[1:], n_outputs, n_ids, has_mask)
    family = _family(wanted)
    takes_numbers = n_ids is None
    is_image = rows.dtype == np.uint8 or rows.ndim == 4
    ahead = _table_layers(wanted, family, rows, categories or {}, will_have_gaps)
    columns = rows.reshape(-1, family.row_shape(wanted)[-1])  # what Standardize goes by
    return build(
        spec,
        input_shape=rows.shape[1:],
        n_outputs=n_outputs,
        task=task,
        scale=_image_scale(rows) if takes_numbers and is_image and not ahead else None,
        standardize=_statistics(columns) if takes_numbers and not (is_image or ahead) else None,
        preprocessing=ahead,
        standardize_targets=_statistics(targets) if task == "regression" else None,
        class_labels=class_labels,
        units=units,
        n_ids=n_ids,
        has_mask=has_mask,
        seed=seed,
    )


def _spec(text: str, input_shape: Shape, n_outputs: int, n_ids: int | None, has_mask: bool) -> Spec:
    if n_outputs < 1:
        raise ConfigError(f"n_outputs is {n_outputs}, expected 1 or more")
    kind, _, arguments = text.partition(":")
    return Spec(text, kind, arguments, tuple(input_shape), n_outputs, n_ids, has_mask)


def _family(spec: Spec) -> Family:
    for family in FAMILIES:
        if family.kind != spec.kind:
            continue
        if spec.n_ids is not None and not family.takes_sequences:
            raise ConfigError(
                f"architecture {spec.text!r} takes numbers, and the rows are ids of words; take "
                "mlp:64, bigru:64 or transformer:64,4,2"
            )
        return family
    raise ConfigError(f"unknown architecture {spec.text!r}; known are {KNOWN}")


def _heeds_mask(spec: Spec, family: Family) -> bool:
    """A perceptron does over ids alone: of numbers it reads all steps side by side."""
    is_side_by_side = len(family.row_shape(spec)) == 1 and spec.n_ids is None
    return family.takes_sequences and not is_side_by_side


def _with_options(
    draft: Draft, n_ahead: int, value: str, options: SpecOptions
) -> tuple[Draft, str]:
    """The draft with another activation and dropout; and its value.

    The first ``n_ahead`` nodes stay as they are.
    """
    if options == SpecOptions():
        return draft, value
    varied = Draft(list(draft.inputs), list(draft.nodes[:n_ahead]), draft.mask)
    names: dict[str, str] = {}
    is_behind_another = False
    for node in draft.nodes[n_ahead:]:
        sources = [names.get(source, source) for source in node.inputs]
        if options.dropout and is_behind_another and isinstance(node.layer, Linear):
            sources = [varied.add(Dropout(options.dropout), *sources)]
        names[node.name] = varied.add(options.in_place_of(node.layer), *sources)
        if options.dropout and isinstance(node.layer, Embedding):
            names[node.name] = varied.add(Dropout(options.dropout), names[node.name])
        is_behind_another = is_behind_another or bool(node.layer.params())
    return varied, names[value]


def _preprocessing(
    scale: float | None, standardize: Statistics | None, others: Sequence[Layer]
) -> list[Layer]:
    if (scale is not None) + (standardize is not None) + bool(others) > 1:
        raise ConfigError("give only one of scale, standardize and preprocessing")
    if scale is not None:
        return [Scale(scale)]
    return list(others) if standardize is None else [Standardize(*standardize)]


def _shape_behind(layers: Sequence[Layer], shape: Shape) -> Shape:
    for layer in layers:
        shape = layer.output_shape(shape)
    return shape


def _table_layers(
    spec: Spec,
    family: Family,
    rows: Array,
    categories: Mapping[int, Sequence[int]],
    will_have_gaps: bool,
) -> list[Layer]:
    """What a table with gaps or categories needs ahead; nothing where rows are plain numbers."""
    if not (will_have_gaps or categories or has_gaps(rows)):
        return []
    what = "categories" if categories else "missing values (NaN)"
    if rows.ndim != 2 or len(family.row_shape(spec)) != 1 or spec.n_ids is not None:
        raise ConfigError(
            f"architecture {spec.text!r} cannot take rows of shape {spec.input_shape} with {what}: "
            "they are for tables (rows, columns) and networks of flat rows, such as mlp:64"
        )
    if is_mapped(rows):
        raise DataError(
            f"rows hold {what}, but are streamed from their file; fill them, or take fewer rows"
        )
    return table_preprocessing(rows, categories, will_have_gaps=will_have_gaps)


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
