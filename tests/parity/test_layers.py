"""Forward and gradients of every layer that PyTorch has, against PyTorch in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hlserve.nn.layers import LAYERS, Conv2d, Dropout, MaxPool2d, Reshape, Scale, Standardize
from hlserve.nn.network import Input, Network, sequential
from tests.nn.cases import CASES, Case

torch = pytest.importorskip("torch")

WITHOUT_COUNTERPART = (Scale, Standardize)  # plain arithmetic; the case table has their oracle
CLOSE = {"rtol": 1e-10, "atol": 1e-10}  # float64 sums of some hundred terms in another order


def pair(value: Any) -> Any:
    """Sizes as PyTorch takes them."""
    return value if isinstance(value, int) or value is None else tuple(value)


def counterpart(case: Case) -> Any:
    """The module of torch.nn for a case's layer, without its parameters' values."""
    layer, nn = case.make(), torch.nn
    config = layer.config()
    if isinstance(layer, Reshape):
        return nn.Unflatten(1, config["shape"]) if len(case.shapes[0]) == 1 else nn.Flatten()
    if isinstance(layer, Dropout):
        return nn.Dropout(config["rate"])
    if isinstance(layer, Conv2d | MaxPool2d):
        return getattr(nn, type(layer).__name__)(**{k: pair(v) for k, v in config.items()})
    if type(layer).__name__ == "Softmax":
        return nn.Softmax(dim=1)
    return getattr(nn, type(layer).__name__)(**config)


def compare(network: Network, module: Any, x: np.ndarray, *, training: bool = True) -> None:
    """Output, input gradient and parameter gradients, for the same random output gradient."""
    network = network.astype(np.float64)
    module = module.double().train(training)
    ours, theirs = network.params().values(), list(module.parameters())
    for param, tensor in zip(ours, theirs, strict=True):
        tensor.data.copy_(torch.from_numpy(param.value.copy()))
    tensor_x = torch.from_numpy(x.astype(np.float64)).requires_grad_()
    expected = module(tensor_x)
    y, backward = network.forward(x.astype(np.float64), training=training)
    np.testing.assert_allclose(np.moveaxis(y, -1, 0), expected.detach().numpy(), **CLOSE)

    dy = np.random.default_rng(4).standard_normal(expected.shape)
    expected.backward(torch.from_numpy(dy))
    dx = backward(np.moveaxis(dy, 0, -1).copy(), to_inputs=True)
    np.testing.assert_allclose(dx[network.inputs[0].name], tensor_x.grad.numpy(), **CLOSE)
    for param, tensor in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(param.grad, tensor.grad.numpy(), **CLOSE)


COMPARED = [case for case in CASES if not isinstance(case.make(), WITHOUT_COUNTERPART)]


def test_every_layer_is_compared_or_listed_as_without_counterpart() -> None:
    compared = {type(case.make()) for case in COMPARED}
    assert compared | set(WITHOUT_COUNTERPART) == set(LAYERS)


@pytest.mark.parametrize("case", COMPARED, ids=lambda case: case.name)
@pytest.mark.parametrize("rows", [1, 6])
def test_a_layer_equals_its_counterpart(case: Case, rows: int) -> None:
    training = not isinstance(case.make(), Dropout)  # other random numbers
    compare(case.network(), counterpart(case), case.rows(rows)["x0"], training=training)


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 2), (3, 1), (2, 3)])
def test_pooling_breaks_ties_alike(kernel: int, stride: int) -> None:
    network = sequential([MaxPool2d(kernel, stride)], Input("x", (2, 8, 9)))
    x = np.random.default_rng(0).integers(0, 3, (4, 2, 8, 9))  # mostly ties
    compare(network, torch.nn.MaxPool2d(kernel, stride), x)


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
    compare(network, module, rng.standard_normal((5, 3, *size)))
