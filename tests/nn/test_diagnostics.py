import numpy as np
import pytest

from hlserve.nn import CrossEntropy, Input, MeanSquaredError, Network, sequential
from hlserve.nn.diagnostics import layer_statistics, row_results
from hlserve.nn.layers import (
    Conv2d,
    Flatten,
    Linear,
    ReLU,
    Reshape,
    Sigmoid,
    Softmax,
    Standardize,
    Tanh,
)
from hlserve.nn.param import Array

ROUNDING = 1e-5  # float32 sums over a few thousand numbers


def classifier(seed: int = 0) -> Network:
    layers = [Linear(5, 8), ReLU(), Linear(8, 6), Tanh(), Linear(6, 3), Softmax()]
    network = sequential(layers, Input("x", (5,)), task="classification")
    return network.initialize(np.random.default_rng(seed))


def rows(n: int = 150, shape: tuple[int, ...] = (5,)) -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, *shape)).astype(np.float32), rng.integers(0, 3, n)


def test_means_and_spreads_are_those_of_all_rows_at_once() -> None:
    network, (x, y) = classifier(), rows()
    told = layer_statistics(network, x, y, CrossEntropy(), np.arange(len(x)))
    values = network.activations(x, [node.name for node in network.nodes])
    assert [s.name for s in told] == [node.name for node in network.nodes]
    for s in told:
        assert s.mean == pytest.approx(values[s.name].mean(), abs=ROUNDING)
        assert s.std == pytest.approx(values[s.name].std(), abs=ROUNDING)
        assert s.output_shape == network.shapes[s.name]


def test_gradients_are_the_root_mean_square_over_single_batches() -> None:
    network, (x, y) = classifier(), rows(128)
    told = layer_statistics(network, x, y, CrossEntropy(), np.arange(128))
    squares = []
    for half in (slice(0, 64), slice(64, 128)):
        network.grad.fill(0)
        scores, backward = network.forward(x[half], until=network.logits_node)
        backward(CrossEntropy()(scores, y[half])[1])
        squares.append(np.mean(network.node("linear_1").layer.params()["weight"].grad ** 2))
        bias = network.node("linear_1").layer.params()["bias"].grad
        squares[-1] = (squares[-1] * 40 + np.sum(bias**2)) / 48
    assert told[0].gradient_rms == pytest.approx(np.sqrt(np.mean(squares)), rel=ROUNDING)
    assert told[0].n_parameters == 48
    assert told[1].gradient_rms is None
    assert told[1].weight_rms is None


def test_weights_are_measured_and_nothing_is_changed() -> None:
    network, (x, y) = classifier(), rows()
    before = network.value.copy()
    told = layer_statistics(network, x, y, CrossEntropy(), np.arange(10))
    np.testing.assert_array_equal(network.value, before)
    assert not network.grad.any()
    params = network.node("linear_3").layer.params().values()
    flat = np.concatenate([p.value.ravel() for p in params])
    assert told[2].weight_rms == pytest.approx(np.sqrt(np.mean(flat**2)), rel=ROUNDING)


def test_units_that_are_silent_on_every_row_are_dead() -> None:
    network, (x, y) = classifier(), rows()
    network.node("linear_1").layer.params()["bias"].value[:2] = -1000
    relu = layer_statistics(network, x, y, CrossEntropy(), np.arange(len(x)))[1]
    assert relu.dead == pytest.approx(0.25)
    assert relu.saturated is None


def test_dead_channels_of_images_are_dead_at_every_position() -> None:
    layers = [Conv2d(1, 4, 3), ReLU(), Flatten(), Linear(64, 3), Softmax()]
    network = sequential(layers, Input("x", (1, 6, 6)), task="classification")
    network.initialize(np.random.default_rng(0))
    network.node("conv2d_1").layer.params()["bias"].value[1] = -1000
    x, y = rows(80, (1, 6, 6))
    assert layer_statistics(network, x, y, CrossEntropy(), np.arange(80))[1].dead == 0.25


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)], ids=["units first", "units second"])
def test_dead_units_are_found_whichever_axis_they_lie_on(shape: tuple[int, int]) -> None:
    network = sequential(
        [Reshape(shape), ReLU(), Flatten(), Linear(24, 3), Softmax()],
        Input("x", (24,)),
        task="classification",
    ).initialize(np.random.default_rng(0))
    x, y = rows(80, (24,))
    cube = x.reshape(80, *shape)
    cube[(slice(None), 1) if shape[0] == 4 else (slice(None), slice(None), 1)] = -1
    assert layer_statistics(network, x, y, CrossEntropy(), np.arange(80))[1].dead == 0.25


@pytest.mark.parametrize("layer", [Tanh(), Sigmoid()], ids=["tanh", "sigmoid"])
def test_activations_at_the_flat_ends_are_saturated(layer: Tanh | Sigmoid) -> None:
    network = sequential([layer, Linear(4, 3), Softmax()], Input("x", (4,)), task="classification")
    network.initialize(np.random.default_rng(0))
    x, y = rows(100, (4,))
    x[:, 0], x[:, 1] = 50, -50
    x[:, 2:] = np.clip(x[:, 2:], -1, 1)
    told = layer_statistics(network, x, y, CrossEntropy(), np.arange(100))[0]
    assert told.saturated == 0.5
    assert told.dead is None


def test_single_rows_have_the_losses_that_a_loop_finds() -> None:
    network, (x, y) = classifier(), rows(300)
    picked = np.array([299, 3, 4, 250])
    told = row_results(network, x, y, CrossEntropy(), picked)
    probabilities = network.predict(x)["output"]
    np.testing.assert_allclose(told.outputs, probabilities[picked], atol=ROUNDING)
    for loss, i in zip(told.losses, picked, strict=True):
        assert loss == pytest.approx(-np.log(probabilities[i, y[i]]), rel=1e-4)  # log of float32
    everything = row_results(network, x, y, CrossEntropy(), np.arange(300))
    assert everything.losses.mean() == pytest.approx(
        CrossEntropy()(network.forward(x, until=network.logits_node)[0], y)[0], rel=ROUNDING
    )


def test_regressions_and_losses_of_ones_own_are_measured_too() -> None:
    network = sequential(
        [Linear(5, 2), Standardize([0, 0], [0.5, 2])], Input("x", (5,)), task="regression"
    ).initialize(np.random.default_rng(0))
    x, _ = rows(70)
    y = np.stack([x[:, 0], x[:, 1]], axis=1)
    told = row_results(network, x, y, MeanSquaredError(), np.arange(70))
    np.testing.assert_allclose(told.losses, np.mean((told.outputs - y) ** 2, axis=1), rtol=1e-4)

    def absolute(scores: Array, targets: Array) -> tuple[float, Array]:
        d = scores - targets.T
        return float(np.abs(d).mean()), np.sign(d) / d.size

    own = row_results(network, x, y, absolute, np.arange(70))  # type: ignore[arg-type]
    np.testing.assert_allclose(own.losses, np.abs(told.outputs - y).mean(axis=1), rtol=1e-4)
    assert layer_statistics(network, x, y, absolute, np.arange(70))[0].gradient_rms  # type: ignore[arg-type]
