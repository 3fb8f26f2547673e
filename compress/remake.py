"""From a source and a recipe to the ONNX file, the same bytes each time on one machine.

The search makes its candidates here, and ``hlserve replay`` makes them again. More or fewer BLAS
threads may change the last bits of a training; who wants the same bytes sets the same number.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from compress.evaluate import bind_rows, fixed_batch
from compress.export import check_parity, to_onnx
from compress.graph_step import GraphStep
from compress.model_file import parameter_count
from compress.recipe import Recipe
from compress.session import Session
from compress.technique import Data, Report
from hlserve.errors import CompressionError
from hlserve.nn.network import Network
from hlserve.nn.param import Array

CALIBRATION_ROWS = 512
PARITY_ROWS = 32


@dataclass(frozen=True, slots=True)
class Remade:
    """What came of a source and a recipe.

    Attributes:
        model: the ONNX file.
        network: what the steps on the network led to; None where the source is a graph.
        reports: one a step.
    """

    model: bytes
    network: Network | None
    reports: tuple[Report, ...]


def remake(
    source: Network | onnx.ModelProto,
    recipe: Recipe,
    data: Data | None = None,
    feeds: Mapping[str, Array] | None = None,
    *,
    seed: int = 0,
) -> Remade:
    """The file that the recipe makes of the source.

    Args:
        source: stays as it is.
        recipe: steps on the network are for a network alone.
        data: what the steps on the network learn from.
        feeds: training rows as the source's graph takes them, for the steps on the file; None
            takes the rows in ``data``.
        seed: of the choice of calibration rows; that of training is in ``data``.

    Raises:
        CompressionError: a step does not fit the source, or lacks the rows that it needs.
    """
    network: Network | None = None
    reports: tuple[Report, ...] = ()
    if isinstance(source, Network):
        if recipe.steps:
            done = recipe.apply(source, _require(data))
            network, reports = done.network, done.reports
        else:
            network = source.copy()
        model = exported(network, None if data is None else data.train.inputs)
    elif recipe.steps:
        raise CompressionError(
            f"{type(recipe.steps[0]).__name__} works on a network, the source is an ONNX graph"
        )
    else:
        model = source
    if feeds is None:
        feeds = _feeds(model, data, seed) if recipe.endings else {}
    model, more = ended(model, recipe.endings, feeds, seed=seed, network=network)
    return Remade(model.SerializeToString(), network, (*reports, *more))


def exported(network: Network, rows: Mapping[str, Array] | None) -> onnx.ModelProto:
    """The network as ONNX; a float one is compared with its own answers on the first rows.

    Raises:
        CompressionError: they differ.
    """
    model = to_onnx(network)
    if rows is not None and not network.activation_qparams:
        check_parity(network, model, {name: x[:PARITY_ROWS] for name, x in rows.items()})
    return model


def ended(
    model: onnx.ModelProto,
    endings: Sequence[GraphStep],
    feeds: Mapping[str, Array],
    *,
    seed: int = 0,
    network: Network | None = None,
) -> tuple[onnx.ModelProto, tuple[Report, ...]]:
    """The model after some steps on its graph, and a report row for each.

    Args:
        model: stays as it is.
        endings: in order.
        feeds: training rows as the model takes them; some are chosen to calibrate with.
        seed: of the choice.
        network: what the model was exported from, for the report; None where it is not known.

    Raises:
        CompressionError: see GraphStep.
    """
    if not endings:
        return model, ()
    batch = fixed_batch(Session(model.SerializeToString()))
    rows = calibration_rows(feeds, seed=seed)
    reports: list[Report] = []
    for step in endings:
        started = time.perf_counter()
        model = step.apply(model, rows, batch=batch)
        reports.append(
            Report(
                technique=type(step).__name__,
                settings=step.settings(),
                parameters=parameter_count(model) if network is None else network.n_parameters,
                macs=None if network is None else network.macs(),
                size_bytes=model.ByteSize(),
                seconds=time.perf_counter() - started,
            )
        )
    return model, tuple(reports)


def calibration_rows(feeds: Mapping[str, Array], *, seed: int) -> dict[str, Array]:
    """Some of the rows, in their order: which ones is the seed's to say."""
    chosen = _chosen(len(next(iter(feeds.values()), ())), seed)
    return {name: array[chosen] for name, array in feeds.items()}


# ----- below


def _chosen(n_rows: int, seed: int) -> Array:
    return np.sort(np.random.default_rng(seed).permutation(n_rows)[:CALIBRATION_ROWS])


def _feeds(model: onnx.ModelProto, data: Data | None, seed: int) -> dict[str, Array]:
    if data is None:
        return {}
    rows = data.train.take(_chosen(len(data.train), seed))  # all are more than memory may hold
    return bind_rows(Session(model.SerializeToString()), rows)


def _require(data: Data | None) -> Data:
    if data is None:
        raise CompressionError("the recipe's techniques need rows to learn from")
    return data
