"""Preprocessing of tables: gaps, categories, units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compress import export
from hlserve.errors import ConfigError, DataError
from hlserve.nn import Input, fit, sequential
from hlserve.nn.architectures import build_for
from hlserve.nn.layers import Impute, Linear, OneHot, ReLU, Softmax, Standardize
from hlserve.nn.param import Array
from hlserve.nn.table import categories_of, table_preprocessing


def table(n: int = 400) -> tuple[Array, Array]:
    """Columns: a number, a number with gaps that matter, a category that matters; and labels."""
    rng = np.random.default_rng(0)
    kind = rng.choice([3, 6, 7], n)
    number, noise = rng.normal(100.0, 20.0, n), rng.normal(0.0, 1.0, n)
    is_missing = rng.random(n) < 0.3
    rows = np.stack([noise, np.where(is_missing, np.nan, number), kind], axis=1)
    return rows.astype(np.float32), ((kind == 6) ^ is_missing).astype(np.int64)


def test_layers_are_those_that_the_columns_ask_for() -> None:
    rows, _ = table()
    layers = table_preprocessing(rows, {2: [3, 6, 7]})
    assert [type(layer) for layer in layers] == [Impute, OneHot, Standardize]
    plain = table_preprocessing(rows[:, :1])
    assert [type(layer) for layer in plain] == [Standardize]


def test_what_comes_out_is_standardized_and_has_no_gaps() -> None:
    rows, _ = table()
    network = sequential(table_preprocessing(rows, {2: [3, 6, 7]}), Input("x", (3,)), output="y")
    y = network.predict(rows)["y"]
    is_missing, kind = np.isnan(rows[:, 1]), rows[:, 2]
    assert y.shape == (400, 6)
    np.testing.assert_allclose(y[:, :2].mean(axis=0), 0, atol=1e-6)  # float32 sums of 400
    np.testing.assert_allclose(y[:, :2].std(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(y[:, 2], is_missing)
    np.testing.assert_array_equal(y[:, 3:], kind[:, None] == [3, 6, 7])
    median = np.nanmedian(rows[:, 1])
    assert network.nodes[0].layer.config()["fill"][1] == pytest.approx(float(median), rel=1e-6)


def test_a_missing_category_and_an_unknown_one_have_no_column() -> None:
    rows = np.array([[3, 1], [6, 2], [np.nan, 3]], np.float32)
    network = sequential(table_preprocessing(rows, {0: [3, 6]}), Input("x", (2,)), output="y")
    y = network.predict(np.array([[np.nan, 1], [9, 1], [6, 1]], np.float32))["y"]
    np.testing.assert_array_equal(y[:, 1:], [[0, 0], [0, 0], [0, 1]])


def test_a_column_without_any_value_is_zeros() -> None:
    rows = np.array([[np.nan, 1], [np.nan, 2]], np.float32)
    network = sequential(table_preprocessing(rows), Input("x", (2,)), output="y")
    np.testing.assert_array_equal(network.predict(rows)["y"][:, 0], [0, 0])


def test_a_network_learns_from_gaps_and_categories_and_exports() -> None:
    rows, labels = table()
    layers = [*table_preprocessing(rows, {2: [3, 6, 7]}), Linear(6, 16), ReLU(), Linear(16, 2)]
    network = sequential([*layers, Softmax()], Input("x", (3,)), task="classification")
    network.initialize(np.random.default_rng(0))
    history = fit(network, rows, labels, progress=False)
    assert history.best is not None
    assert history.best.validation_metric > 0.97  # an exclusive or of a gap and a category
    export.check_parity(network, export.to_onnx(network), rows)


def test_infinity_is_refused_where_gaps_are_allowed() -> None:
    rows, labels = table()
    rows[5, 0] = np.inf
    layers = [*table_preprocessing(rows[6:], {2: [3, 6, 7]}), Linear(6, 2), Softmax()]
    network = sequential(layers, Input("x", (3,)), task="classification")
    with pytest.raises(DataError, match="row 5 holds infinity"):
        fit(network, rows, labels, progress=False)


def test_gaps_are_refused_where_no_layer_fills_them() -> None:
    rows, labels = table()
    network = sequential([Linear(3, 2), Softmax()], Input("x", (3,)), task="classification")
    with pytest.raises(DataError, match="NaN or infinity"):
        fit(network, rows, labels, progress=False)


def test_rows_that_are_no_table_and_unnamed_categories_are_refused() -> None:
    with pytest.raises(DataError, match=r"expected \(rows, columns\)"):
        table_preprocessing(np.zeros((2, 3, 4), np.float32))
    with pytest.raises(DataError, match="column 2 holds 7, expected one of the categories"):
        table_preprocessing(table()[0], {2: [3, 6]})


@pytest.mark.parametrize("spec", ["mlp:8", "lstm:4"])
def test_a_built_network_fills_and_encodes_what_its_rows_ask_for(spec: str) -> None:
    rows, labels = table()
    network = build_for(spec, rows, labels, task="classification", categories={2: [3, 6, 7]})
    assert [type(node.layer) for node in network.nodes[:3]] == [Impute, OneHot, Standardize]
    assert network.inputs[0].shape == (3,)
    assert categories_of(network) == {2: (3, 6, 7)}
    assert network.takes_missing("input")
    export.check_parity(network, export.to_onnx(network), rows)
    gaps = build_for(spec, rows, labels, task="classification")
    assert [type(node.layer) for node in gaps.nodes[:2]] == [Impute, Standardize]
    plain = build_for(spec, rows[:, [0, 2]], labels, task="classification")
    assert isinstance(plain.nodes[0].layer, Standardize)
    assert categories_of(plain) == {}


def test_gaps_of_a_column_that_had_none_are_filled_where_others_had_some() -> None:
    rows, labels = table()
    network = build_for("mlp:8", rows, labels, task="classification", categories={2: [3, 6, 7]})
    some = rows[:1].copy()
    some[0, :] = np.nan
    assert np.isfinite(network.predict(some)["probabilities"]).all()
    whole = build_for(
        "mlp:8", rows[:, 2:], labels, task="classification", categories={0: [3, 6, 7]}
    )
    assert np.isfinite(whole.predict(some[:, 2:])["probabilities"]).all()


def test_gaps_in_rows_that_are_no_table_are_told(tmp_path: Path) -> None:
    rows, labels = table()
    series = np.repeat(rows[:, :, None], 2, axis=2)
    with pytest.raises(
        ConfigError, match=r"'lstm:4' cannot take rows of shape \(3, 2\) with missing"
    ):
        build_for("lstm:4", series, labels, task="classification")
    with pytest.raises(ConfigError, match="with categories: they are for tables"):
        build_for("lstm:4", series, labels, task="classification", categories={0: [1]})
    with pytest.raises(
        DataError, match=r"column 2 holds 7, expected one of the categories \[3, 6\]"
    ):
        build_for("mlp:4", rows, labels, task="classification", categories={2: [3, 6]})
    np.save(tmp_path / "x.npy", rows)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    with pytest.raises(DataError, match=r"missing values .* but are streamed from their file"):
        build_for("mlp:4", mapped, labels, task="classification")


def test_gaps_that_other_rows_have_are_filled_with_the_medians_of_these() -> None:
    rows, labels = table()
    whole = rows[~np.isnan(rows).any(axis=1)]
    classes = labels[: len(whole)]
    network = build_for("mlp:8", whole, classes, task="classification", will_have_gaps=True)
    assert isinstance(network.nodes[0].layer, Impute)
    gap = whole[:1].copy()
    gap[0, 1] = np.nan
    filled = gap.copy()
    filled[0, 1] = np.median(whole[:, 1])
    answers = [network.predict(some)["probabilities"] for some in (gap, filled)]
    np.testing.assert_array_equal(*answers)
    plain = build_for("mlp:8", whole, classes, task="classification")
    assert isinstance(plain.nodes[0].layer, Standardize)
