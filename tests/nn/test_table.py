"""Preprocessing of tables: gaps, categories, units."""

from __future__ import annotations

import numpy as np
import pytest

from compress import export
from hlserve.errors import DataError
from hlserve.nn import Input, fit, sequential
from hlserve.nn.layers import Impute, Linear, OneHot, ReLU, Softmax, Standardize
from hlserve.nn.param import Array
from hlserve.nn.table import table_preprocessing


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
