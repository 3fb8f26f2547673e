"""What scikit-learn's conventions ask of an estimator's rows, targets and errors.

Classes of scikit-learn are looked up among the modules that are loaded, and never imported.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hlserve.errors import ConfigError, DataError, MissingDependencyError
from hlserve.nn.param import Array


def checked_rows(X: Any, estimator: object) -> Array:  # noqa: N803 - scikit-learn's name
    """Rows as an array of finite real numbers, (rows, columns, ...), at least one of each.

    Raises:
        TypeError: the rows are sparse, or objects that are no numbers; as scikit-learn has it.
        DataError: anything else.
    """
    if hasattr(X, "toarray"):
        raise TypeError(
            f"{type(estimator).__name__} takes dense rows, got sparse data; use X.toarray()"
        )
    rows = np.asarray(X)
    if rows.dtype.kind == "c":
        raise DataError("Complex data not supported: a network computes with real numbers")
    if rows.dtype.kind not in "fiub":
        try:
            rows = rows.astype(np.float64)
        except (TypeError, ValueError) as error:
            if rows.dtype.kind == "O" and "argument must be" in str(error):
                raise TypeError(f"X holds objects that are no numbers: {error}") from error
            raise DataError(f"X holds {rows.dtype}, expected numbers: {error}") from error
    if rows.ndim < 2:
        raise DataError(
            f"X has shape {rows.shape}, expected (rows, columns). Reshape your data: "
            "X.reshape(-1, 1) if it is one column, X.reshape(1, -1) if it is one row"
        )
    if not len(rows):
        raise DataError(f"Found array with 0 sample(s) (shape={rows.shape}), expected 1 or more")
    if not rows.shape[1]:
        raise DataError(
            f"Found array with 0 feature(s) (shape={rows.shape}) while a minimum of 1 is required."
        )
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        raise DataError("X holds NaN or infinity; impute such values ahead of the network")
    return rows


def checked_targets(y: Any, n_rows: int) -> Array:
    """Targets as an array, as many as there are rows.

    Raises:
        DataError: they are not, or hold complex numbers, NaN or infinity.
    """
    targets = np.asarray(y)
    if targets.dtype.kind == "c":
        raise DataError("Complex data not supported: y must hold labels or real numbers")
    if targets.ndim == 0 or len(targets) != n_rows:
        raise DataError(f"X has {n_rows} rows, y has shape {targets.shape}; expected as many")
    if targets.dtype.kind == "f" and not np.isfinite(targets).all():
        raise DataError("Input y contains NaN or infinity; drop such rows")
    return targets


def checked_weights(sample_weight: ArrayLike | None, n_rows: int) -> Array | None:
    """Weights of the rows, (rows,) float64; None for none.

    Raises:
        DataError: the shape is wrong, or all are zero.
    """
    if sample_weight is None:
        return None
    weights = np.asarray(sample_weight, np.float64)
    if weights.shape != (n_rows,):
        raise DataError(f"sample_weight has shape {weights.shape}, expected ({n_rows},)")
    if not weights.any():
        raise DataError("sample_weight holds a zero weight for every row: nothing counts")
    return weights


def _names_of(X: Any) -> Array | None:  # noqa: N803 - scikit-learn's name
    """The column names of a data frame, where all of them are texts."""
    columns = getattr(X, "columns", None)
    if columns is None or not all(isinstance(name, str) for name in columns):
        return None
    return np.asarray(list(columns), dtype=object)


def remember_names(estimator: Any, X: Any) -> None:  # noqa: N803 - scikit-learn's name
    """Sets ``feature_names_in_``, or takes it away where the rows have no names."""
    names = _names_of(X)
    if names is not None:
        estimator.feature_names_in_ = names
    elif hasattr(estimator, "feature_names_in_"):
        del estimator.feature_names_in_


def require_same_names(estimator: Any, X: Any) -> None:  # noqa: N803 - scikit-learn's name
    """Compares the rows' names with those of ``fit``; warns where only one of both has any.

    Raises:
        DataError: both have, and they differ.
    """
    known, names = getattr(estimator, "feature_names_in_", None), _names_of(X)
    if known is None and names is not None:
        told = (
            f"X has feature names, but {type(estimator).__name__} was fitted without feature names"
        )
        warnings.warn(told, stacklevel=4)
    elif known is not None and names is None:
        told = "X does not have valid feature names, but"
        warnings.warn(
            f"{told} {type(estimator).__name__} was fitted with feature names", stacklevel=4
        )
    elif known is not None and names is not None and list(known) != list(names):
        raise DataError(
            "The feature names should match those that were passed during fit: "
            f"expected {list(known)}, got {list(names)}"
        )


def warn_of_column() -> None:
    """Warns that labels came as a column, with scikit-learn's category where it is loaded."""
    told = "A column-vector y was passed when a 1d array was expected; use y.ravel()"
    module = sys.modules.get("sklearn.exceptions")
    category = UserWarning if module is None else module.DataConversionWarning
    warnings.warn(told, category, stacklevel=4)


def not_fitted(name: str) -> Exception:
    """The error of an estimator that is used before ``fit``: scikit-learn's where it is loaded."""
    message = f"This {name} instance is not fitted yet; call fit before it is used"
    module = sys.modules.get("sklearn.exceptions")
    if module is None:
        return ConfigError(message)
    error: Exception = module.NotFittedError(message)  # what scikit-learn's callers catch
    return error


def loaded(module: str) -> Any:
    """A module of the scikit-learn that is asking; it is looked up, never imported."""
    if module not in sys.modules:
        raise MissingDependencyError(f"{module} is not loaded; import scikit-learn first")
    return sys.modules[module]
