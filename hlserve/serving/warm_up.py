"""Runs that a version makes before it takes requests, so that no client pays for the first one."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlserve import datatypes
from hlserve.codec import decode_raw
from hlserve.datatypes import Datatype
from hlserve.errors import ConfigError, HlserveError
from hlserve.serving.batchability import first_sample_that_runs
from hlserve.serving.config import WarmUp, WarmUpInput
from hlserve.serving.session import Session

Array = NDArray[Any]

_FOLDER = "warmup"  # Triton's
_MAX_ELEMENTS = 1 << 28

_LOG = logging.getLogger(__name__)


def warm_up_as_stated(session: Session, warm_ups: tuple[WarmUp, ...], model_dir: Path) -> None:
    """Runs what model_warmup states.

    Raises:
        ConfigError: it names other inputs than the model's, a file that is not there or has
            another size, or inputs that the model does not take.
    """
    names = [tensor.name for tensor in session.outputs]
    for warm_up in warm_ups:
        where = f"model_warmup {warm_up.name!r}"
        expected = sorted(tensor.name for tensor in session.inputs)
        if sorted(warm_up.inputs) != expected:
            raise ConfigError(
                f"{where} has the inputs {sorted(warm_up.inputs)}, the model has {expected}"
            )
        inputs = {
            name: _array(f"{where}: input {name!r}", stated, warm_up.rows, model_dir)
            for name, stated in warm_up.inputs.items()
        }
        try:
            for _ in range(warm_up.count):
                session.run(inputs, names)
        except HlserveError as error:
            raise ConfigError(f"{where} does not run: {error}") from error


def warm_up_with_made_up_rows(session: Session, row_counts: tuple[int, ...], label: str) -> None:
    """Runs made-up rows, so many at once each time; a model that takes none of them stays cold."""
    for rows in row_counts:
        try:
            first_sample_that_runs(session, rows)
        except HlserveError as error:
            _LOG.debug("%s: not warmed up with %d rows: %s", label, rows, error)
            return


def _array(where: str, stated: WarmUpInput, rows: int, model_dir: Path) -> Array:
    datatype = datatypes.by_name(stated.datatype)
    shape = (*((rows,) if rows else ()), *stated.dims)
    if math.prod(shape) > _MAX_ELEMENTS:
        raise ConfigError(f"{where} has shape {list(shape)}, expected at most 2^28 elements")
    if stated.fill == "file":
        return _read_array(where, model_dir / _FOLDER / stated.file, datatype, shape)
    if datatype.dtype.hasobject:
        return np.full(shape, b"", dtype=object)
    if stated.fill == "zeros":
        return np.zeros(shape, datatype.dtype)
    rng = np.random.default_rng(0)
    if datatype.dtype.kind in "iub":
        return rng.integers(0, 2, shape).astype(datatype.dtype)
    return rng.random(shape).astype(datatype.dtype)


def _read_array(where: str, path: Path, datatype: Datatype, shape: tuple[int, ...]) -> Array:
    try:
        if not path.resolve().is_relative_to(path.parent.parent.resolve()):
            raise ConfigError(f"{where}: {path.name} is a link out of the model's folder")
        return decode_raw(path.read_bytes(), datatype, shape)
    except OSError as error:
        raise ConfigError(f"{where}: cannot read {path}: {error.strerror}") from error
    except HlserveError as error:
        raise ConfigError(f"{where}: {path.name}: {error}") from error
