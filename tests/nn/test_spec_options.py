import numpy as np
import pytest

from hlserve.errors import ConfigError
from hlserve.nn import build
from hlserve.nn.spec_options import ACTIVATIONS, SpecOptions, split_options

IMAGES = (1, 28, 28)


def kinds(spec: str, shape: tuple[int, ...] = IMAGES) -> list[str]:
    network = build(spec, input_shape=shape, n_outputs=10, task="classification")
    return [type(node.layer).__name__ for node in network.nodes]


@pytest.mark.parametrize("architecture", ["mlp:8", "mlp:300,100", "lenet5", "cnn:8,16/32"])
@pytest.mark.parametrize(
    "options",
    [SpecOptions(), SpecOptions("tanh"), SpecOptions("relu", 0.1), SpecOptions("tanh", 0.25)],
)
def test_what_is_written_is_read_again(architecture: str, options: SpecOptions) -> None:
    assert split_options(f"{architecture}{options}") == (architecture, options)


def test_an_activation_stands_wherever_relu_stood() -> None:
    assert kinds("lenet5,tanh") == [k.replace("ReLU", "Tanh") for k in kinds("lenet5")]
    assert kinds("mlp:8,4,relu") == kinds("mlp:8,4")


def test_dropout_is_on_what_dense_layers_read_but_for_the_input() -> None:
    assert kinds("mlp:8,4,dropout=0.2") == [
        *("Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear", "Softmax")
    ]
    convolutions = ["Conv2d", "ReLU", "MaxPool2d", "Conv2d", "ReLU", "MaxPool2d", "Flatten"]
    assert kinds("lenet5-caffe,dropout=0.5") == [
        *convolutions,
        *("Dropout", "Linear", "ReLU", "Dropout", "Linear", "Softmax"),
    ]


def test_the_order_of_options_and_blanks_do_not_matter() -> None:
    assert split_options("mlp:8, dropout=0.5, tanh") == split_options("mlp:8,tanh,dropout=0.5")


def test_options_change_no_starting_weight() -> None:
    plain, varied = (
        build(spec, input_shape=(5,), n_outputs=2, task="classification", seed=3)
        for spec in ("mlp:8,4", "mlp:8,4,tanh,dropout=0.5")
    )
    np.testing.assert_array_equal(plain.value, varied.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mlp:8,tanh,relu", "the activation is said twice"),
        ("mlp:8,dropout=0.1,dropout=0.2", "the dropout is said twice"),
        ("mlp:8,dropout=1", "dropout is '1', expected 0 to below 1"),
        ("mlp:8,dropout=much", "dropout is 'much', expected 0 to below 1"),
        ("mlp:8,swish", r"expected the sizes of the hidden layers.*; 'swish' is no activation"),
        ("mlp:8,dropot=0.2", "'dropot=0.2' is no activation .*tanh.* or dropout=RATE"),
        ("mlp:tanh", "expected the sizes of the hidden layers"),
    ],
)
def test_mistakes_are_told(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(spec, input_shape=(5,), n_outputs=2, task="classification")


def test_there_are_activations_to_choose_from() -> None:
    assert {"relu", "tanh"} <= set(ACTIVATIONS)
