"""Small networks and rows that most tests of compress share."""

import numpy as np
import pytest

from compress.technique import Data
from hlserve.datasets import Rows
from hlserve.nn.architectures import build
from hlserve.nn.trainer import fit


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def made_rows(n, shape, n_classes, seed=0):
    """Pixels in which each class brightens a part of its own."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    x = rng.integers(0, 120, (n, *shape))
    flat = x.reshape(n, -1)
    part = flat.shape[1] // n_classes
    for row, label in enumerate(y):
        flat[row, label * part : (label + 1) * part] += 60
    return Rows({"x": x.astype(np.uint8)}, y)


@pytest.fixture(scope="session")
def mlp_rows():
    return made_rows(900, (40,), 4)


@pytest.fixture(scope="session")
def image_rows():
    return made_rows(300, (1, 12, 12), 3)


@pytest.fixture(scope="session")
def trained_mlp(mlp_rows):
    network = build(
        "mlp:64,32", input_shape=(40,), n_outputs=4, task="classification", scale=1 / 255
    )
    fit(network, mlp_rows.inputs, mlp_rows.y, epochs=6, progress=False)
    return network


@pytest.fixture(scope="session")
def small_lenet():
    return build(
        "lenet5", input_shape=(1, 12, 12), n_outputs=3, task="classification", scale=1 / 255
    )


@pytest.fixture
def mlp_data(mlp_rows, trained_mlp):
    logits = trained_mlp.activations(mlp_rows.inputs, [trained_mlp.logits_node])
    return Data(mlp_rows, next(iter(logits.values())).T.copy())
