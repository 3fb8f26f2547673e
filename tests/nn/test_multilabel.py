"""Several yes-or-no labels a row, from training to the checkpoint."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from hlserve.errors import ModelFileError
from hlserve.nn import checkpoint
from hlserve.nn.architectures import build, build_for
from hlserve.nn.evaluation import evaluate
from hlserve.nn.history import EpochRecord
from hlserve.nn.layers import Sigmoid
from hlserve.nn.losses import BinaryCrossEntropy
from hlserve.nn.network import Network
from hlserve.nn.optimizers import AdamW, RMSprop
from hlserve.nn.param import Array
from hlserve.nn.trainer import fit

TOPICS = ("north", "east", "far")


def rows() -> tuple[Array, Array]:
    """Points of the plane, and whether each is north, east, and far from the origin."""
    x = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
    return x, np.stack([x[:, 1] > 0, x[:, 0] > 0, np.hypot(*x.T) > 1.5], axis=1)


def trained() -> Network:
    x, y = rows()
    network = build_for("mlp:24", x, y, task="multilabel", class_labels=TOPICS)
    fit(network, x, y, epochs=30, batch_size=32, optimizer=AdamW(0.02), progress=False)
    return network


def test_a_network_learns_labels_that_do_not_exclude_each_other() -> None:
    x, y = rows()
    network = trained()
    probabilities = network.predict(x)["probabilities"]
    assert probabilities.shape == y.shape
    assert ((probabilities > 0.5) == y).mean() > 0.95
    assert (probabilities[y.all(axis=1)] > 0.5).all(axis=1).mean() > 0.8  # all three at once
    f1 = evaluate(network, x, y).metric
    assert f1 is not None
    assert f1 > 0.9
    accuracy = evaluate(network, x, y, metric="accuracy").metric
    assert accuracy == ((probabilities > 0.5) == y).mean()


def test_the_best_epoch_has_its_metric_and_name() -> None:
    x, y = rows()
    network = build_for("mlp:8", x, y, task="multilabel")
    history = fit(network, x, y, epochs=2, progress=False)
    assert history.metric == "f1"
    assert history.best is not None
    assert history.best.validation_metric is not None


def test_the_network_closes_with_one_sigmoid_a_label() -> None:
    network = build("mlp:4", input_shape=(2,), n_outputs=3, task="multilabel")
    assert isinstance(network.nodes[-1].layer, Sigmoid)
    assert network.logits_node == network.nodes[-2].name
    assert list(network.outputs) == ["probabilities"]
    assert network.shapes[network.nodes[-1].name] == (3,)


def test_class_weights_raise_what_is_found_of_a_rare_label() -> None:
    x, _ = rows()
    y = (np.hypot(*x.T) + np.random.default_rng(1).normal(size=len(x)) > 3)[:, np.newaxis]
    found = []
    for weight in (1.0, 10.0):
        network = build_for("mlp:8", x, y, task="multilabel")
        loss = BinaryCrossEntropy([weight])
        fit(network, x, y, loss=loss, validation=None, epochs=5, progress=False)
        found.append((network.predict(x)["probabilities"] > 0.5)[y].mean())
    assert found[1] > found[0] + 0.2


def test_a_steady_step_with_weights_allocates_nothing_large() -> None:
    x = np.random.default_rng(0).normal(size=(1024, 64)).astype(np.float32)
    y = (x[:, :40] > 0).astype(np.int64)
    network = build("mlp:256", input_shape=(64,), n_outputs=40, task="multilabel")
    peaks: list[int] = []

    def watch(network: Network, record: EpochRecord) -> None:
        now, peak = tracemalloc.get_traced_memory()
        peaks.append(peak - now)
        tracemalloc.reset_peak()

    targets = {"labels": y, "weights": np.ones(1024)}
    settings = {"loss": BinaryCrossEntropy(np.ones(40)), "optimizer": RMSprop(momentum=0.9)}
    tracemalloc.start()
    try:
        fit(
            network,
            x,
            targets,
            epochs=4,
            batch_size=256,
            validation=None,
            progress=False,
            callbacks=[watch],
            **settings,
        )  # type: ignore[arg-type]
    finally:
        tracemalloc.stop()
    # 64 kB is the promise for one array; an epoch's permutation of 1,024 rows is 8 kB, what
    # NumPy casts at a time 32 kB.
    assert max(peaks[1:]) < 64 * 1024


def test_a_checkpoint_keeps_the_task_and_the_labels(tmp_path: Path) -> None:
    network = trained()
    checkpoint.save(network, tmp_path / "topics.safetensors")
    loaded = checkpoint.load(tmp_path / "topics.safetensors")
    assert (loaded.task, loaded.class_labels) == ("multilabel", TOPICS)
    x, _ = rows()
    np.testing.assert_array_equal(
        loaded.predict(x)["probabilities"], network.predict(x)["probabilities"]
    )


def test_an_unknown_task_in_a_checkpoint_is_refused(tmp_path: Path) -> None:
    network = build("mlp:4", input_shape=(2,), n_outputs=1, task="regression")
    network.task = "ranking"  # type: ignore[assignment]  # what a newer hlserve might write
    checkpoint.save(network, tmp_path / "odd.safetensors")
    with pytest.raises(ModelFileError, match="ranking"):
        checkpoint.load(tmp_path / "odd.safetensors")
