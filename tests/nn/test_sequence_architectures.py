"""Specs over sequences: ids of words, masks, pictures read row by row."""

from __future__ import annotations

import numpy as np
import pytest

from compress import export
from hlserve.errors import ConfigError
from hlserve.nn import Network, build, build_for, fit
from hlserve.nn.param import Array

OVER_IDS = ("mlp:16", "mlp:16,8", "lstm:8", "bigru:8", "rnn:8,4", "transformer:8,2,1")


def words(n: int, time: int = 6) -> tuple[dict[str, Array], Array]:
    """Ids 2..9, padded with 0; the label says whether id 2 occurs."""
    rng = np.random.default_rng(0)
    length = rng.integers(1, time + 1, n)
    mask = (np.arange(time) < length[:, None]).astype(np.int64)
    ids = np.where(mask == 1, rng.integers(2, 10, (n, time)), 0)
    return {"input": ids, "mask": mask}, (ids == 2).any(axis=1).astype(np.int64)


def of_ids(spec: str, *, has_mask: bool = True) -> Network:
    rows, labels = words(50)
    return build_for(
        spec, rows["input"], labels, task="classification", n_ids=10, has_mask=has_mask
    )


@pytest.mark.parametrize("spec", OVER_IDS)
def test_networks_over_ids_take_ids_and_a_mask(spec: str) -> None:
    network = of_ids(spec)
    assert [(i.name, i.shape, i.dtype) for i in network.inputs] == [
        ("input", (6,), "int64"),
        ("mask", (6,), "int64"),
    ]
    rows, _ = words(7)
    export.check_parity(network, export.to_onnx(network), rows)


@pytest.mark.parametrize("spec", OVER_IDS)
def test_padding_makes_no_difference(spec: str) -> None:
    network = of_ids(spec)
    rows, _ = words(20)
    other = {"input": np.where(rows["mask"] == 1, rows["input"], 7), "mask": rows["mask"]}
    np.testing.assert_allclose(
        network.predict(rows)["probabilities"],
        network.predict(other)["probabilities"],
        atol=1e-6,  # float32 sums in which padding counts nothing
    )


@pytest.mark.parametrize("spec", ["mlp:16", "bigru:8", "transformer:8,2,1"])
def test_networks_over_ids_learn(spec: str) -> None:
    rows, labels = words(600)
    network = of_ids(spec)
    history = fit(network, rows, labels, epochs=30, progress=False)
    assert history.best is not None
    assert history.best.validation_metric is not None
    assert history.best.validation_metric > 0.8  # the commoner class has 0.65


def test_a_network_over_ids_does_without_a_mask() -> None:
    assert [entry.name for entry in of_ids("gru:8", has_mask=False).inputs] == ["input"]


@pytest.mark.parametrize("spec", ["lenet5", "cnn:8", "resnet:8"])
def test_networks_of_pictures_refuse_ids(spec: str) -> None:
    with pytest.raises(ConfigError, match="the rows are ids of words; take mlp:64, bigru:64"):
        of_ids(spec)


def test_networks_over_features_take_a_mask_and_perceptrons_do_not() -> None:
    series = np.random.default_rng(0).standard_normal((20, 5, 3), np.float32)
    labels = np.arange(20) % 2
    for spec, inputs in (
        ("gru:4", ["input", "mask"]),
        ("transformer:4,2,1", ["input", "mask"]),
        ("mlp:4", ["input"]),
    ):
        network = build_for(spec, series, labels, task="classification", has_mask=True)
        assert [entry.name for entry in network.inputs] == inputs


def test_a_transformer_reads_a_grey_picture_row_by_row() -> None:
    network = build(
        "transformer:8,2,1", input_shape=(1, 6, 5), n_outputs=3, task="classification", scale=0.1
    )
    rows = np.random.default_rng(0).random((4, 1, 6, 5), np.float32)
    assert network.predict(rows)["probabilities"].shape == (4, 3)
    with pytest.raises(ConfigError, match=r"expects rows of shape \(time, features\)"):
        build("transformer:8,2,1", input_shape=(3, 6, 5), n_outputs=3, task="classification")


def test_dropout_stands_behind_an_embedding_too() -> None:
    kinds = [type(node.layer).__name__ for node in of_ids("gru:8,dropout=0.5").nodes]
    assert kinds == ["Embedding", "Dropout", "GRU", "Dropout", "Linear", "Softmax"]
