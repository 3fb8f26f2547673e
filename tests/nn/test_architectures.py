import os
from pathlib import Path

import numpy as np
import pytest

from hlserve.errors import ConfigError, DataError
from hlserve.nn.architectures import build, build_for
from hlserve.nn.checkpoint import describe
from hlserve.nn.gradcheck import check_gradients
from hlserve.nn.layers import Conv2d, Scale, Softmax, Standardize
from hlserve.nn.network import Network

# Counted by hand: weights and biases, layer by layer.
LENET5 = (6 * 25 + 6) + (16 * 6 * 25 + 16) + (400 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)
LENET5_CAFFE = 431_080  # Han et al. 2015, arXiv:1506.02626, table 1: "431K"

CNN_8_16_32 = (8 * 9 + 16) + (16 * 8 * 9 + 32) + (784 * 32 + 32) + (32 * 10 + 10)
W16, W32, W64 = 16 * 16 * 9, 32 * 32 * 9, 64 * 64 * 9  # a 3x3 convolution that keeps its width
RESNET8_MACS = sum(
    (
        *(196 * (16 * 9 + 2 * W16), 49 * (16 * 32 * (9 + 1) + W32)),
        *(16 * (32 * 64 * (9 + 1) + W64), 640),
    )
)


def image_network(spec: str, shape: tuple[int, ...] = (1, 28, 28), seed: int = 0) -> Network:
    return build(
        spec,
        input_shape=shape,
        n_outputs=10,
        task="classification",
        scale=1 / 255,
        seed=seed,
    )


@pytest.mark.parametrize(
    ("spec", "n_parameters", "macs"),
    [
        ("mlp:300,100", 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10, 266_200),
        ("mlp:8", 784 * 8 + 8 + 8 * 10 + 10, 6_352),
        ("lenet5", LENET5, 784 * 150 + 100 * 16 * 150 + 48_000 + 10_080 + 840),
        ("lenet5-caffe", LENET5_CAFFE, 576 * 500 + 64 * 50 * 500 + 400_000 + 5_000),
        ("cnn:8,16/32", CNN_8_16_32, 784 * 72 + 196 * 16 * 72 + 784 * 32 + 320),
        ("cnn:8", 72 + 16 + 10 * (196 * 8 + 1), 784 * 72 + 10 * 196 * 8),
        ("resnet:8", 77_754, RESNET8_MACS),
        ("resnet:14", 174_970, RESNET8_MACS + 2 * (196 * W16 + 49 * W32 + 16 * W64)),
    ],
)
def test_sizes_are_those_of_the_papers(spec: str, n_parameters: int, macs: int) -> None:
    network = image_network(spec)
    assert network.n_parameters == n_parameters
    assert network.macs() == macs


@pytest.mark.parametrize("spec", ["mlp:20", "lenet5", "lenet5-caffe", "cnn:4,6/8", "resnet:8"])
def test_pixels_in_probabilities_out(spec: str) -> None:
    network = image_network(spec)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 28, 28), dtype=np.uint8)
    outputs = network.predict(pixels)
    assert list(outputs) == ["probabilities"]
    assert network.inputs[0].name == "input"
    np.testing.assert_allclose(outputs["probabilities"].sum(axis=1), np.ones(5), rtol=1e-5)
    assert isinstance(network.nodes[0].layer, Scale)
    assert isinstance(network.nodes[-1].layer, Softmax)


@pytest.mark.parametrize("spec", ["mlp:7", "lenet5", "lenet5-caffe", "cnn:3,4/5", "resnet:14"])
def test_gradients_are_right(spec: str) -> None:
    rng = np.random.default_rng(3)
    shape = (2, 16, 17)
    network = build(spec, input_shape=shape, n_outputs=3, task="classification", seed=1)
    rows = rng.normal(size=(3, *network.inputs[0].shape))
    check_gradients(network, rows, rng=rng, until=network.logits_node)


def test_mlp_takes_flat_rows_and_images_alike() -> None:
    network = image_network("mlp:20")
    assert network.inputs[0].shape == (784,)
    images = np.random.default_rng(0).random((4, 1, 28, 28), np.float32)
    np.testing.assert_array_equal(
        network.predict(images)["probabilities"],
        network.predict(images.reshape(4, 784))["probabilities"],
    )


@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 32, 32), (1, 28, 20)])
def test_lenet5_fits_other_images(shape: tuple[int, int, int]) -> None:
    network = image_network("lenet5", shape)
    assert network.predict(np.zeros((2, *shape), np.float32))["probabilities"].shape == (2, 10)


def test_the_seed_decides_the_weights() -> None:
    first, again, other = (image_network("lenet5", seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.value, again.value)
    assert not np.array_equal(first.value, other.value)


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        ("vgg", (1, 28, 28), "unknown architecture 'vgg'; known are mlp:300,100"),
        ("resnet", (1, 28, 28), r"expected a depth of 6 n \+ 2, as in resnet:8, resnet:14"),
        ("resnet:9", (1, 28, 28), "expected a depth"),
        ("resnet:2", (1, 28, 28), "expected a depth"),
        ("resnet:8", (1, 7, 28), "at least 8x8"),
        ("cnn", (1, 28, 28), "the filters of each stage and, behind a slash"),
        ("cnn:8/", (1, 28, 28), "the filters of each stage and, behind a slash"),
        ("cnn:8,8,8,8,8", (1, 28, 28), "at least 32x32"),
        ("lenet5:3", (1, 28, 28), "lenet5 takes no sizes, leave them out"),
        ("lenet:3", (1, 28, 28), "unknown architecture"),
        ("mlp", (10,), "expected the sizes of the hidden layers, as in mlp:300,100"),
        ("mlp:", (10,), "sizes of the hidden layers"),
        ("mlp:30,0", (10,), "sizes of the hidden layers"),
        ("mlp:30,-1", (10,), "sizes of the hidden layers"),
        ("mlp:30,x", (10,), "sizes of the hidden layers"),
        ("lenet5", (1, 8, 8), r"at least 12x12, the rows have shape \(1, 8, 8\); take an mlp"),
        ("lenet5-caffe", (1, 12, 12), "at least 16x16"),
        ("lenet5", (784,), r"images \(channels, height, width\)"),
    ],
)
def test_what_cannot_be_built_is_refused(spec: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        image_network(spec, shape)


def test_settings_that_contradict_are_refused() -> None:
    with pytest.raises(ConfigError, match="only one of scale, standardize and preprocessing"):
        build(
            "mlp:3",
            input_shape=(1,),
            n_outputs=1,
            task="regression",
            scale=1.0,
            standardize=([0.0], [1.0]),
        )
    with pytest.raises(ConfigError, match="n_outputs is 0"):
        build("mlp:3", input_shape=(1,), n_outputs=0, task="regression")


# ----- build_for


@pytest.mark.parametrize(("highest", "factor"), [(16, 1 / 16), (255, 1 / 255), (100, 1 / 255)])
def test_pixels_are_scaled_by_their_depth(highest: int, factor: float) -> None:
    rows = np.array([[[[0, highest]]]], np.uint8)
    network = build_for("mlp:2", rows, np.array([0]), task="classification")
    assert network.nodes[0].layer.config()["factor"] == factor


def test_float_images_are_scaled_by_their_largest_value() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 1, 16, 16)).astype(np.float32)
    network = build_for("lenet5", rows, np.arange(4), task="classification")
    x = network.activations(rows, [network.nodes[0].name])[network.nodes[0].name]
    assert np.abs(x).max() == pytest.approx(1.0)


def test_columns_are_standardized_and_constant_ones_left_in_place() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(5000, 3)) * [1e-3, 50, 1] + [2e3, -7, 0]).astype(np.float32)
    rows[:, 2] = 0.1  # whose mean in float64 is not exactly the float32 0.1
    network = build_for("mlp:4", rows, np.zeros(5000, np.float32), task="regression")
    first = network.nodes[0]
    assert isinstance(first.layer, Standardize)
    z = network.activations(rows, [first.name])[first.name]
    # A column at 2000 deviating by 0.001 has three digits left in float32.
    np.testing.assert_allclose(z[:2].std(axis=1), [1, 1], rtol=2e-2)
    assert np.abs(z[2]).max() < 1e-6


def test_a_regression_answers_in_the_targets_units() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    targets = np.linspace(1e6, 1.1e6, 50).astype(np.float32)
    network = build_for("mlp:4", rows, targets, task="regression")
    assert list(network.outputs) == ["output"]
    spread = network.predict(rows)["output"]
    assert abs(float(spread.mean()) - targets.mean()) < 5 * targets.std()


def test_classes_are_those_of_the_labels_or_of_their_names() -> None:
    rows, labels = np.zeros((4, 2), np.float32), np.array([0, 1, 3, 0])
    assert build_for("mlp:2", rows, labels, task="classification").shapes["softmax_5"] == (4,)
    names = ["a", "b", "c", "d", "e"]
    network = build_for("mlp:2", rows, labels, task="classification", class_labels=names)
    assert network.shapes["softmax_5"] == (5,)
    assert network.class_labels == tuple(names)


def test_no_rows_are_refused() -> None:
    with pytest.raises(DataError, match=r"rows have shape \(0, 3\)"):
        build_for("mlp:2", np.zeros((0, 3)), np.zeros(0), task="regression")


def test_units_stand_in_the_description() -> None:
    network = build(
        "mlp:2", input_shape=(3,), n_outputs=2, task="classification", units="pixels 0..255"
    )
    assert describe(network).inputs[0].units == "pixels 0..255"
    assert not any(isinstance(node.layer, Conv2d) for node in network.nodes)


SHARED = Path(os.environ.get("HLSERVE_SHARED", Path(__file__).parents[3] / "shared"))
FASHION = SHARED / "data" / "fashion-mnist"


@pytest.mark.slow
@pytest.mark.skipif(not FASHION.is_dir(), reason=f"no Fashion-MNIST at {FASHION}")
@pytest.mark.parametrize(
    ("spec", "floor", "epochs"),
    [
        ("mlp:300,100", 0.885, None),
        ("lenet5", 0.9, None),
        ("cnn:32,64/128", 0.915, 5),
        ("resnet:8", 0.9, 5),
    ],
)
def test_architectures_reach_their_accuracy_on_fashion_mnist(
    spec: str, floor: float, epochs: int | None
) -> None:
    from hlserve.datasets import load
    from hlserve.nn import evaluate, fit

    data = load(FASHION)
    assert data.train.y is not None
    assert data.test is not None
    assert data.test.y is not None
    network = build_for(spec, data.train.x, data.train.y, task="classification")
    fit(network, data.train.x, data.train.y, epochs=epochs, progress=False)
    reached = evaluate(network, data.test.x, data.test.y).metric
    assert reached is not None
    assert reached >= floor
