"""Laws over every row of the table of layers."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compress import export
from hlserve.errors import ConfigError
from hlserve.nn import checkpoint
from hlserve.nn.gradcheck import check_gradients
from hlserve.nn.layer import Layer
from hlserve.nn.layers import (
    GRU,
    LAYERS,
    LSTM,
    RNN,
    Add,
    Affine,
    ArgMax,
    AvgPool1d,
    AvgPool2d,
    BatchNorm,
    Clip,
    Concat,
    Conv1d,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    GlobalAvgPool,
    GroupNorm,
    HardSigmoid,
    Impute,
    Linear,
    LogSoftmax,
    MaxPool1d,
    MaxPool2d,
    Multiply,
    OneHot,
    Pad,
    PaddingMask,
    Reshape,
    Slice,
    Softmax,
    Standardize,
    Transpose,
)
from hlserve.nn.network import Input, Network, Node, sequential
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace
from tests.nn.cases import CASES, Case

ROUNDING = {"rtol": 2e-5, "atol": 2e-6}  # float32 sums of at most 50 terms in another order
# What a ufunc that converts types or walks strided arrays may hold at a time: three operands of
# np.getbufsize() elements. It does not grow with the arrays.
NUMPY_BUFFERS = 3 * 8192 * 4

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def run(
    network: Network,
    rows: dict[str, Array],
    workspace: Workspace | None = None,
    *,
    training: bool = True,
) -> tuple[Array, dict[str, Array], Array]:
    """Output, input gradients and flat parameter gradient of one pass, as arrays of their own."""
    if workspace is None:
        workspace = network.workspace(np.random.default_rng(3))
    network.grad.fill(0)
    y, backward = network.forward(rows, training=training, workspace=workspace)
    result = y.copy()
    dy = np.random.default_rng(4).standard_normal(y.shape).astype(network.dtype)
    to_inputs = {name: dx.copy() for name, dx in backward(dy, to_inputs=True).items()}
    return result, to_inputs, network.grad.copy()


def test_the_table_lists_every_layer() -> None:
    assert {type(case.make()) for case in CASES} == set(LAYERS)


def test_layers_are_listed_once_by_name() -> None:
    names = [layer.__name__ for layer in LAYERS]
    assert names == sorted(set(names))


# ----- gradients


@every_case
@pytest.mark.parametrize("rows", [1, 5])
def test_gradients_agree_with_central_differences(case: Case, rows: int) -> None:
    check_gradients(case.network(), case.rows(rows), rng=np.random.default_rng(0))


@every_case
def test_gradients_of_prediction_agree_too(case: Case) -> None:
    network = case.network()
    check_gradients(network, case.rows(3), rng=np.random.default_rng(0), training=False)


@every_case
def test_gradients_add_up_over_passes(case: Case) -> None:
    network = case.network()
    _, _, once = run(network, case.rows(4))
    workspace = network.workspace(np.random.default_rng(3))
    for _ in range(2):
        y, backward = network.forward(case.rows(4), training=True, workspace=workspace)
        dy = np.random.default_rng(4).standard_normal(y.shape).astype(np.float32)
        assert backward(dy) == {}
    np.testing.assert_allclose(network.grad, 3 * once, **ROUNDING)


# ----- the forward pass


@every_case
def test_onnx_runtime_computes_the_same(case: Case) -> None:
    network = case.network()
    export.check_parity(network, export.to_onnx(network), case.rows(6))


@every_case
def test_a_batch_equals_its_rows_one_by_one(case: Case) -> None:
    network, rows = case.network(), case.rows(5)
    whole = network.predict(rows)["y"]
    for i in range(5):
        one = network.predict({name: array[i : i + 1] for name, array in rows.items()})["y"]
        np.testing.assert_allclose(one, whole[i : i + 1], **ROUNDING)


@every_case
def test_the_output_has_the_promised_shape_and_dtype(case: Case) -> None:
    network = case.network()
    y = network.predict(case.rows(3))["y"]
    assert y.shape == (3, *network.shapes["layer"])
    assert y.dtype == network.node("layer").layer.output_dtype


@every_case
def test_an_empty_batch_gives_empty_outputs_and_no_gradient(case: Case) -> None:
    network = case.network()
    y, to_inputs, grad = run(network, case.rows(0))
    assert y.shape == (*network.shapes["layer"], 0)
    assert {name: dx.shape for name, dx in to_inputs.items()} == {
        i.name: (0, *i.shape) for i in network.inputs if i.dtype == "float32"
    }
    assert not grad.any()


@every_case
def test_prediction_is_not_random(case: Case) -> None:
    network, rows = case.network(), case.rows(4)
    workspace = network.workspace()  # without a random generator
    first, _, _ = run(network, rows, workspace, training=False)
    again, _, _ = run(network, rows, workspace, training=False)
    np.testing.assert_array_equal(first, again)


@every_case
def test_inputs_are_never_written(case: Case) -> None:
    rows = case.rows(4)
    for array in rows.values():
        array.flags.writeable = False  # a write raises
    run(case.network(), rows)
    inputs = [np.ascontiguousarray(np.moveaxis(array, 0, -1)) for array in rows.values()]
    before = [x.copy() for x in inputs]
    workspace = Workspace(rng=np.random.default_rng(0))
    y, backward = case.network().nodes[0].layer.forward(*inputs, training=True, workspace=workspace)
    backward(np.ones_like(y))
    for x, kept in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(x, kept)


@every_case
def test_the_memory_order_of_inputs_and_gradients_does_not_matter(case: Case) -> None:
    layer = case.network().nodes[0].layer
    turned = [np.moveaxis(array, 0, -1) for array in case.rows(4).values()]
    results = []
    for inputs in (turned, [np.ascontiguousarray(x) for x in turned]):
        for order in ("C", "F"):
            workspace = Workspace(rng=np.random.default_rng(0))
            y, backward = layer.forward(*inputs, training=True, workspace=workspace)
            dy = np.random.default_rng(4).standard_normal(y.shape)
            grads = backward(np.array(dy, np.float32, order=order))
            results.append([y.copy(), *(dx.copy() for dx in grads)])
    for arrays in results[1:]:
        for array, first in zip(arrays, results[0], strict=True):
            np.testing.assert_allclose(array, first, **ROUNDING)


# ----- workspaces


@every_case
def test_a_shorter_batch_behind_a_longer_one_sees_nothing_of_it(case: Case) -> None:
    network = case.network()
    workspace = network.workspace(np.random.default_rng(3))
    run(network, case.rows(7, seed=1), workspace)
    after = run(network, case.rows(3), workspace, training=False)
    fresh = run(network, case.rows(3), training=False)
    for kept, new in zip(
        (after[0], *after[1].values(), after[2]),
        (fresh[0], *fresh[1].values(), fresh[2]),
        strict=True,
    ):
        np.testing.assert_array_equal(kept, new)


@every_case
def test_a_steady_step_allocates_no_large_array(case: Case) -> None:
    network = case.network()
    smallest = min(int(np.prod(shape)) for shape in (*network.shapes.values(), *case.shapes))
    n = 40_000 // smallest  # every activation has at least 160 kB in float32
    rows = case.rows(n)
    workspace = network.workspace(np.random.default_rng(3))
    y, _ = network.forward(rows, training=True, workspace=workspace)
    dy, spent = np.ones_like(y), np.empty_like(y)

    def step() -> None:
        np.copyto(spent, dy)
        _, backward = network.forward(rows, training=True, workspace=workspace)
        backward(spent, to_inputs=True)

    step()
    tracemalloc.start()
    try:
        step()
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        step()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < NUMPY_BUFFERS + 20_000


# ----- what a checkpoint and pruning need


@every_case
def test_a_checkpoint_brings_the_layer_back(case: Case, tmp_path: Path) -> None:
    network = case.network()
    checkpoint.save(network, tmp_path / "run.safetensors")
    loaded = checkpoint.load(tmp_path / "run.safetensors")
    layer, again = network.nodes[0].layer, loaded.nodes[0].layer
    assert type(again) is type(layer)
    assert again.config() == layer.config()
    np.testing.assert_array_equal(
        loaded.predict(case.rows(3))["y"], network.predict(case.rows(3))["y"]
    )


@every_case
def test_the_constructor_takes_its_config_back_from_json(case: Case) -> None:
    layer = case.make()
    again = type(layer)(**json.loads(json.dumps(layer.config())))
    assert json.dumps(again.config()) == json.dumps(layer.config())


@every_case
def test_a_layer_made_from_its_own_arrays_is_the_same(case: Case) -> None:
    network = case.network()
    layer = network.nodes[0].layer
    again = layer.with_arrays({name: param.value for name, param in layer.params().items()})
    assert again is not layer
    assert all(
        again.params()[name].value is not param.value for name, param in layer.params().items()
    )
    other = network.replace_layers({"layer": again})
    np.testing.assert_array_equal(
        other.predict(case.rows(3))["y"], network.predict(case.rows(3))["y"]
    )


def surrounded(case: Case, of_rows: MakeLayer) -> Network:
    """The case's layer between ones that make units and one that reads them, where they fit."""
    layer, nodes, sources = case.make(), [], []
    inputs = case.network().inputs
    for entry in inputs:
        maker = producer(entry.shape, of_rows) if entry.dtype == "float32" else None
        sources.append(entry.name if maker is None else f"before_{entry.name}")
        if maker is not None:
            nodes.append(Node(f"before_{entry.name}", maker, (entry.name,)))
    nodes.append(Node("layer", layer, tuple(sources)))
    out = layer.output_shape(*case.shapes)
    after = producer(out, of_rows, 2)
    if after is not None:
        nodes.append(Node("after", after, ("layer",)))
    network = Network(inputs, nodes, {"y": nodes[-1].name})
    rng = np.random.default_rng(1)
    network.value[...] = 0.5 * rng.standard_normal(network.value.size)
    network.statistics[...] = rng.uniform(0.5, 2.0, network.statistics.size)
    return network


def producer(shape: tuple[int, ...], of_rows: MakeLayer, n: int | None = None) -> Layer | None:
    """A layer that reads such rows and makes ``n`` units, as many as there are by default.

    ``of_rows`` makes it for rows of two axes, of which either may be the channels'.
    """
    if len(shape) == 1:
        return Linear(shape[0], n or shape[0])
    if len(shape) == 2:
        return of_rows(shape, n)
    return Conv2d(shape[0], n or shape[0], 1) if len(shape) == 3 else None


MakeLayer = Callable[[tuple[int, ...], int | None], Layer]

OF_ROWS: dict[str, MakeLayer] = {
    "dense": lambda shape, n: Linear(shape[1], n or shape[1]),
    "recurrent": lambda shape, n: RNN(shape[1], n or shape[1]),
    "convolved": lambda shape, n: Conv1d(shape[0], n or shape[0], 1),
}

SURROUNDED = [
    pytest.param(case, kind, id=f"{case.name}, {kind}")
    for case in CASES
    for kind in (
        OF_ROWS
        if any(len(s) == 2 for s in (*case.shapes, case.make().output_shape(*case.shapes)))
        else ("dense",)
    )
]


@pytest.mark.parametrize(("case", "kind"), SURROUNDED)
def test_removing_a_unit_equals_reading_nothing_of_it(case: Case, kind: str) -> None:
    network = surrounded(case, OF_ROWS[kind])
    rows = case.rows(3)
    flow = network.channel_flow()
    bindings = flow.bindings()
    made = {unit for b in bindings if b.is_producer for unit in b.ids.tolist()}
    for unit in sorted(made - flow.protected()):
        if any(set(b.ids.tolist()) == {unit} for b in bindings):
            continue  # the last one of its kind
        deaf = network.copy()
        names = {id(param): name for name, param in network.params().items()}
        arrays = {name: param.value.copy() for name, param in network.params().items()}
        for binding in bindings:
            name, is_unit = names[id(binding.param)], binding.ids == unit
            if not binding.is_producer:
                np.moveaxis(deaf.params()[name].value, binding.axis, 0)[is_unit] = 0
            arrays[name] = np.delete(arrays[name], np.flatnonzero(is_unit), binding.axis)
        smaller = network.replace_layers(
            {
                node.name: node.layer.with_arrays(
                    {name: arrays[f"{node.name}.{name}"] for name in node.layer.params()}
                )
                for node in network.nodes
            }
        )
        assert smaller.n_parameters < network.n_parameters
        np.testing.assert_allclose(smaller.predict(rows)["y"], deaf.predict(rows)["y"], **ROUNDING)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(Softmax(), (4,)), (Standardize([0.0] * 4, [1.0] * 4), (4,)), (Reshape((1, 2, 2)), (4,))],
    ids=["softmax", "standardize", "reshape that mixes"],
)
def test_units_that_cannot_go_alone_are_protected(layer: Layer, shape: tuple[int, ...]) -> None:
    network = sequential([Linear(3, 4), layer, Flatten(), Linear(4, 2)], Input("x", (3,)))
    flow = network.channel_flow()
    made = next(b.ids for b in flow.bindings() if b.param is network.params()["linear_1.bias"])
    assert set(made.tolist()) <= flow.protected()
    assert network.shapes[network.nodes[1].inputs[0]] == shape


def test_a_batch_norm_without_rows_or_with_one_keeps_its_statistics() -> None:
    network = sequential([BatchNorm(3)], Input("x", (3,))).initialize(np.random.default_rng(0))
    for n in (0, 1):
        y, _ = network.forward(np.ones((n, 3), np.float32), training=True)
        np.testing.assert_array_equal(y, np.zeros((3, n)))  # beta, around its own mean
    np.testing.assert_array_equal(network.statistics, [0, 0, 0, 1, 1, 1])


def test_a_batch_norm_keeps_the_digits_of_values_far_from_zero() -> None:
    rng = np.random.default_rng(0)
    x = (1000 + rng.standard_normal((64, 2, 5, 5))).astype(np.float32)
    network = sequential([BatchNorm(2)], Input("x", (2, 5, 5))).initialize(rng)
    y, _ = network.forward(x, training=True)
    exact = x.astype(np.float64)
    exact -= exact.mean(axis=(0, 2, 3), keepdims=True)
    exact /= np.sqrt(exact.var(axis=(0, 2, 3), keepdims=True) + 1e-5)
    # The mean of 1600 numbers near 1000 is off by some float32 roundings of 6e-5 each.
    np.testing.assert_allclose(np.moveaxis(y, -1, 0), exact, atol=5e-4)


@pytest.mark.parametrize(
    ("layer", "is_kept"),
    [(Conv2d(4, 4, 3, groups=4), False), (Conv2d(4, 4, 3, groups=2), True)],
    ids=["depthwise", "two groups"],
)
def test_depthwise_channels_go_with_their_input_and_other_groups_stay(
    layer: Layer, is_kept: bool
) -> None:
    network = sequential([Conv2d(1, 4, 1), layer, Flatten(), Linear(4, 2)], Input("x", (1, 3, 3)))
    flow = network.channel_flow()
    made = next(b.ids for b in flow.bindings() if b.param is network.params()["conv2d_1.bias"])
    assert (set(made.tolist()) <= flow.protected()) == is_kept
    read = next(b.ids for b in flow.bindings() if b.param is network.params()["linear_4.weight"])
    assert (read.tolist() == made.tolist()) == (not is_kept)


# ----- what users may get wrong


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(0, 3), r"in_features \(=0\)"),
        (lambda: Conv2d(1, 0, 3), r"out_channels \(=0\)"),
        (lambda: Conv2d(1, 1, 0), r"kernel_size \(=0\) must be an int of at least 1"),
        (lambda: Conv2d(1, 1, (3, 3, 3)), r"kernel_size \(=\(3, 3, 3\)\)"),
        (lambda: Conv2d(1, 1, 3, stride=0), r"stride \(=0\)"),
        (lambda: Conv2d(1, 1, 3, padding=-1), r"padding \(=-1\) must be an int of at least 0"),
        (lambda: Conv2d(4, 6, 3, groups=3), r"groups \(=3\) must .* divide in_channels \(=4\)"),
        (lambda: Conv2d(4, 6, 3, groups=4), r"divide .* out_channels \(=6\)"),
        (lambda: Conv1d(1, 1, 3, dilation=0), r"dilation \(=0\) must be an int of at least 1"),
        (lambda: Conv1d(1, 1, (3, 3)), r"kernel_size \(=\(3, 3\)\) must be an int"),
        (lambda: MaxPool2d(2.5), r"kernel_size \(=2.5\)"),
        (lambda: MaxPool2d(3, padding=2), r"padding \(=\(2, 2\)\) may be at most half"),
        (lambda: AvgPool1d(3, padding=2), "at most half of kernel_size"),
        (lambda: BatchNorm(0), r"channels \(=0\)"),
        (lambda: BatchNorm(3, momentum=0), r"momentum \(=0\)"),
        (lambda: Multiply(gate_axes=3), r"gate_axes \(=3\)"),
        (lambda: Concat(-1), r"axis \(=-1\)"),
        (lambda: Standardize([0.0], [1.0, 2.0]), r"mean has shape \(1,\) and std \(2,\)"),
        (lambda: Standardize([float("nan")], [1.0]), "must be finite"),
        (lambda: Impute([1.0, float("nan")]), "one finite number a column"),
        (lambda: Impute([1.0], [1]), r"indicators \(=\(1,\)\) must be different columns of 0 to 0"),
        (lambda: OneHot(2, [0, 0], [[1], [2]]), r"columns \(=\(0, 0\)\) must be different"),
        (lambda: OneHot(2, [0], [[]]), "must name some for each of the 1 columns"),
        (lambda: OneHot(2, [0], [[1, 1]]), "name one twice"),
        (lambda: Reshape((2, -1, -1)), r"-1 at most once"),
        (lambda: Reshape((0, 4)), "at least 1"),
        (lambda: Clip(1.0, 1.0), r"low \(=1.0\) and high \(=1.0\)"),
        (lambda: HardSigmoid(0), r"slope \(=0.0\)"),
        (lambda: Affine(0), r"channels \(=0\)"),
        (lambda: GroupNorm(2, 5), r"groups \(=2\) must .* divide channels \(=5\)"),
        (lambda: Pad((1, 2, 3)), r"padding \(=\(1, 2, 3\)\) must be two or four ints"),
        (lambda: Slice(3, 3), r"start \(=3\) must lie from 0 to below stop \(=3\)"),
        (lambda: Transpose((0, 2)), r"axes \(=\(0, 2\)\) must name every axis"),
        (lambda: ConvTranspose2d(1, 1, 3, 2, 0, 2), r"output_padding \(=2\) .* than stride"),
        (lambda: Conv2d(1, 1, 3, padding=(1, 2, 3)), r"padding \(=\(1, 2, 3\)\) must be an int"),
        (lambda: MaxPool2d(2, padding=(0, 0, 2, 0)), "must be smaller than kernel_size"),
        (lambda: LSTM(0, 3), r"LSTM: input_size \(=0\) and hidden_size \(=3\) must be at least 1"),
        (lambda: GRU(3, -1), r"GRU: input_size \(=3\) and hidden_size \(=-1\)"),
        (lambda: GRU(1, 2**20), r"GRU: .* hidden_size \(=1048576\) are too large"),
        (lambda: RNN(3, 2, activation="gelu"), "activation is 'gelu', expected 'tanh' or 'relu'"),
    ],
)
def test_constructors_refuse_what_cannot_work(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("layer", "shapes", "message"),
    [
        (Linear(4, 2), ((5,),), r"\(4,\) or \(\.\.\., 4\), got \(5,\); put a Flatten before"),
        (Linear(4, 2), ((4,), (4,)), "Linear expects"),
        (Conv2d(3, 2, 3), ((1, 8, 8),), r"\(3, height, width\), got \(1, 8, 8\)"),
        (Conv2d(1, 2, 9), ((1, 8, 8),), r"window of \(9, 9\) does not fit into \(8, 8\)"),
        (MaxPool2d(2), ((7,),), r"\(channels, height, width\), got \(7,\)"),
        (MaxPool2d(2), ((1, 1, 8),), "does not fit"),
        (Conv1d(1, 2, 3, dilation=4), ((1, 8),), r"window of \(1, 9\) does not fit into \(1, 8\)"),
        (Conv1d(3, 2, 3), ((3, 8, 8),), r"\(3, length\), got \(3, 8, 8\)"),
        (MaxPool1d(2), ((2, 4, 4),), r"MaxPool1d expects rows of shape \(channels, length\)"),
        (AvgPool2d(2), ((7,),), r"\(channels, height, width\), got \(7,\)"),
        (GlobalAvgPool(), ((7,),), r"GlobalAvgPool expects .*got \(7,\)"),
        (BatchNorm(3), ((4, 3),), r"BatchNorm expects rows of shape \(3,\).*got \(4, 3\)"),
        (Add(), ((3,), (4,)), r"inputs of one shape, got \(3,\), \(4,\)"),
        (Add(), ((3,),), "two or more inputs"),
        (Multiply(2), ((3, 4), (3,)), r"gates of \(channels,\) for rows of 3 axes"),
        (Multiply(), ((3, 4), (3,)), "of the same shape"),
        (Concat(1), ((3, 4), (2, 4)), "differ along axis 1 alone"),
        (ArgMax(), ((2, 3),), r"ArgMax expects .*\(features,\), got \(2, 3\)"),
        (LogSoftmax(), ((2, 3),), r"LogSoftmax expects .*\(features,\), got \(2, 3\)"),
        (Affine(3), ((4,),), r"3 channels on axis 0, got \(4,\)"),
        (GroupNorm(1, 3), ((3,),), r"GroupNorm expects .*got \(3,\)"),
        (Pad((1, 1)), ((3,),), r"expects rows of 2 axes, got \(3,\)"),
        (Slice(0, 4), ((3,),), r"at least 4 on axis 0, got \(3,\)"),
        (Transpose((1, 2, 0)), ((3, 4),), r"rows of 3 axes, got \(3, 4\)"),
        (ConvTranspose2d(2, 1, 3), ((1, 4, 4),), r"\(2, height, width\), got \(1, 4, 4\)"),
        (ConvTranspose2d(1, 1, 1, padding=2), ((1, 4, 4),), "nothing of rows"),
        (Softmax(), ((2, 3),), r"\(features,\), got \(2, 3\)"),
        (Reshape((2, 3)), ((7,),), r"hold 7 numbers, which do not make \(2, 3\)"),
        (Standardize([0.0], [1.0]), ((2,),), r"rows of 1 columns, got \(2,\)"),
        (Impute([0.0, 0.0]), ((3,),), r"rows of 2 columns, got \(3,\)"),
        (OneHot(2, [0], [[1]]), ((2, 2),), r"rows of 2 columns, got \(2, 2\)"),
        (Flatten(), ((2,), (2,)), "takes one input, got 2"),
        (LSTM(3, 4), ((3,),), r"LSTM expects rows of shape \(time, 3\) and perhaps a mask"),
        (GRU(3, 4), ((5, 2),), r"GRU expects rows of shape \(time, 3\), got \(5, 2\)"),
        (RNN(3, 4), ((5, 3), (6,)), r"RNN expects a mask of shape \(5,\), got \(6,\)"),
        (RNN(3, 4), ((0, 3),), r"time, 3"),
        (PaddingMask(), ((5, 2),), r"PaddingMask expects rows of ids of shape \(time,\), got"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    layer: Layer, shapes: tuple[tuple[int, ...], ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        layer.output_shape(*shapes)


def test_arrays_for_a_layer_without_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Softmax has no parameters, got \['weight'\]"):
        Softmax().with_arrays({"weight": np.zeros(3)})
