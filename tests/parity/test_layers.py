"""Forward and gradients of every layer that PyTorch has, against PyTorch in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hlserve.nn.layers import LAYERS, BatchNorm, Conv1d, Conv2d, Dropout, MaxPool2d
from hlserve.nn.network import Input, Network, sequential
from hlserve.nn.param import Array
from tests.nn.cases import CASES, Case

torch = pytest.importorskip("torch")

from tests.parity.counterparts import COUNTERPARTS, WITHOUT_COUNTERPART  # noqa: E402  # need torch

CLOSE = {"rtol": 1e-10, "atol": 1e-10}  # float64 sums of some hundred terms in another order


def compare(
    network: Network, module: Any, rows: dict[str, Array], *, training: bool = True
) -> None:
    """Output, input gradients and parameter gradients, for the same random output gradient."""
    network = network.astype(np.float64)
    module = module.double().train(training)
    ours = [param for param in network.params().values() if param.is_trained]
    theirs = list(module.parameters())
    for param, tensor in zip(ours, theirs, strict=True):
        tensor.data.copy_(torch.from_numpy(param.value.copy()))
    statistics = [param for param in network.params().values() if not param.is_trained]
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    for param, buffer in zip(statistics, buffers, strict=True):
        buffer.copy_(torch.from_numpy(param.value.copy()))
    fed = {n: a.astype(np.float64 if a.dtype.kind == "f" else np.int64) for n, a in rows.items()}
    tensors = {n: torch.from_numpy(a).requires_grad_(a.dtype.kind == "f") for n, a in fed.items()}
    expected = module(*tensors.values())
    y, backward = network.forward(fed, training=training)
    np.testing.assert_allclose(np.moveaxis(y, -1, 0), expected.detach().numpy(), **CLOSE)
    for param, buffer in zip(statistics, buffers, strict=True):
        np.testing.assert_allclose(param.value, buffer.numpy(), **CLOSE)

    dy = np.random.default_rng(4).standard_normal(expected.shape)
    expected.backward(torch.from_numpy(dy))
    dx = backward(np.moveaxis(dy, 0, -1).copy(), to_inputs=True)
    for name, tensor in tensors.items():
        if tensor.requires_grad:
            np.testing.assert_allclose(dx[name], tensor.grad.numpy(), **CLOSE)
    for param, tensor in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(param.grad, tensor.grad.numpy(), **CLOSE)


COMPARED = [case for case in CASES if not isinstance(case.make(), WITHOUT_COUNTERPART)]


def test_every_layer_is_compared_or_listed_as_without_counterpart() -> None:
    assert {*COUNTERPARTS, *WITHOUT_COUNTERPART} == set(LAYERS)


@pytest.mark.parametrize("case", COMPARED, ids=lambda case: case.name)
@pytest.mark.parametrize("rows", [1, 6])
def test_a_layer_equals_its_counterpart(case: Case, rows: int) -> None:
    layer = case.make()
    module = COUNTERPARTS[type(layer)](layer, case.shapes)
    training = not isinstance(layer, Dropout)  # other random numbers
    if isinstance(layer, BatchNorm) and case.shapes[0][1:] == () and rows == 1:
        training = False  # PyTorch refuses to train on one value a channel
    compare(case.network(), module, case.rows(rows), training=training)


@pytest.mark.parametrize("case", COMPARED, ids=lambda case: case.name)
def test_a_layer_predicts_as_its_counterpart(case: Case) -> None:
    layer = case.make()
    module = COUNTERPARTS[type(layer)](layer, case.shapes)
    compare(case.network(), module, case.rows(4), training=False)


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 2), (3, 1), (2, 3)])
def test_pooling_breaks_ties_alike(kernel: int, stride: int) -> None:
    network = sequential([MaxPool2d(kernel, stride)], Input("x", (2, 8, 9)))
    x = np.random.default_rng(0).integers(0, 3, (4, 2, 8, 9))  # mostly ties
    compare(network, torch.nn.MaxPool2d(kernel, stride), {"x": x.astype(np.float64)})


@pytest.mark.parametrize("size", [(9, 8), (5, 11)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 2), (4, 0)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 1), (1, 4)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 2), (2, 5)])
def test_convolutions_of_every_geometry_agree(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    size: tuple[int, int],
) -> None:
    rng = np.random.default_rng(0)
    network = sequential([Conv2d(3, 4, kernel, stride, padding)], Input("x", (3, *size)))
    network.value[...] = rng.standard_normal(network.value.size)
    module = torch.nn.Conv2d(3, 4, kernel, stride, padding)
    compare(network, module, {"x": rng.standard_normal((5, 3, *size))})


@pytest.mark.parametrize("groups", [2, 6])
@pytest.mark.parametrize("padding", [(0, 0), (1, 2), (4, 0)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 1), (1, 4)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 5)])
def test_grouped_convolutions_of_every_geometry_agree(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], groups: int
) -> None:
    rng = np.random.default_rng(0)
    layer = Conv2d(6, 12, kernel, stride, padding, groups)
    network = sequential([layer], Input("x", (6, 9, 8)))
    network.value[...] = rng.standard_normal(network.value.size)
    module = torch.nn.Conv2d(6, 12, kernel, stride, padding, groups=groups)
    compare(network, module, {"x": rng.standard_normal((5, 6, 9, 8))})


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("padding", [0, 2, 7])
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("kernel", [1, 2, 5])
def test_convolutions_along_time_of_every_geometry_agree(
    kernel: int, stride: int, padding: int, dilation: int, groups: int
) -> None:
    rng = np.random.default_rng(0)
    layer = Conv1d(3, 6, kernel, stride, padding, dilation, groups)
    network = sequential([layer], Input("x", (3, 19)))
    network.value[...] = rng.standard_normal(network.value.size)
    module = torch.nn.Conv1d(3, 6, kernel, stride, padding, dilation, groups)
    compare(network, module, {"x": rng.standard_normal((5, 3, 19))})
