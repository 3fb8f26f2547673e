"""The layers that a table needs ahead of a network, from what its training rows tell."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from hlserve.errors import DataError
from hlserve.nn.layer import Layer
from hlserve.nn.layers import Impute, OneHot, Standardize
from hlserve.nn.network import Network
from hlserve.nn.param import Array


def table_preprocessing(
    rows: Array,
    categories: Mapping[int, Sequence[int]] | None = None,
    *,
    will_have_gaps: bool = False,
) -> list[Layer]:
    """Layers that turn raw columns into standardized numbers without gaps.

    Missing values (NaN) become the column's median, with an indicator column for each that has
    gaps; categories become one column each, a missing one zeros in all of them; everything
    else is standardized. Medians, not means: half-filled columns are often skewed. Where any
    column has gaps or categories, later rows may have gaps in all of them.

    Args:
        rows: (rows, columns), the training rows alone, NaN where a value is missing.
        categories: for the columns that hold categories, the whole numbers that stand for them.
        will_have_gaps: whether gaps are to be filled though these rows have none.

    Raises:
        DataError: the rows are no table, or a column has a category that is not named.
    """
    if rows.ndim != 2 or not rows.size:
        raise DataError(f"rows have shape {rows.shape}, expected (rows, columns)")
    named = dict(categories or {})
    values = rows.astype(np.float64)
    _require_named(values, named)
    is_missing, medians = np.isnan(values), _medians(values)
    has_gaps = is_missing.any(axis=0)
    indicators = [int(c) for c in np.flatnonzero(has_gaps) if c not in named]
    layers: list[Layer] = []
    if has_gaps.any() or named or will_have_gaps:
        layers.append(_impute(medians, named, indicators))
    width = values.shape[1] + len(indicators)
    if named:
        columns = sorted(named)
        layers.append(OneHot(width, columns, [named[c] for c in columns]))
    numbers = [c for c in range(values.shape[1]) if c not in named]
    n_ones = len(indicators) + sum(map(len, named.values()))
    filled = np.where(is_missing, medians, values)[:, numbers]
    return [*layers, _standardize(filled, n_ones)]


def categories_of(network: Network) -> dict[int, tuple[int, ...]]:
    """The categories that a network was built with, by column of its only input."""
    for node in network.nodes:
        if isinstance(node.layer, OneHot):
            return dict(zip(node.layer.columns, map(tuple, node.layer.categories), strict=True))
    return {}


def _medians(values: Array) -> Array:
    """Of every column's present values; 0 for a column without any."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # a column without any value
        medians: Array = np.nan_to_num(np.nanmedian(values, axis=0))
    return medians


def _impute(
    medians: Array, categories: Mapping[int, Sequence[int]], indicators: list[int]
) -> Impute:
    fill = medians.copy()
    for column, codes in categories.items():
        fill[column] = min(codes) - 1  # none of them
    return Impute(fill.tolist(), indicators)


def _standardize(filled: Array, n_ones: int) -> Standardize:
    """Of numbers without gaps; indicators and categories stay 0 and 1."""
    mean, deviation = filled.mean(axis=0), filled.std(axis=0)
    # A constant column deviates by rounding alone; dividing by that would blow it up.
    deviation[deviation <= np.finfo(np.float32).eps * np.abs(mean)] = 1.0
    return Standardize([*mean.tolist(), *[0.0] * n_ones], [*deviation.tolist(), *[1.0] * n_ones])


def _require_named(values: Array, categories: Mapping[int, Sequence[int]]) -> None:
    for column, codes in categories.items():
        found = values[:, column]
        unknown = found[~np.isnan(found) & ~np.isin(found, codes)]
        if unknown.size:
            raise DataError(
                f"column {column} holds {unknown[0]:g}, expected one of the categories "
                f"{list(codes)}"
            )
