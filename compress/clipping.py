"""What calibration saw, and where the integers of the chosen model end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import numpy_helper

from compress.evaluate import bind_rows, fixed_batch
from compress.export import to_onnx
from compress.quantization import QuantizeStatic
from compress.quantization.histogram import Histogram
from compress.quantization.observer import Range, held_range
from compress.quantization.placement import place
from compress.quantization.post_training import PostTraining
from compress.recipe import Recipe
from compress.remake import calibration_rows
from compress.session import Session
from compress.technique import Data
from hlserve.nn.network import Network
from hlserve.nn.param import Array, QParams

MOST_BINS = 64  # of a histogram in the report: what a plot of it can show


def clipping_of_network(recipe: Recipe, network: Network, data: Data) -> list[dict[str, Any]]:
    """The part ``calibration`` of the report, for what a recipe made of a network.

    Args:
        recipe: its steps; without static integers nothing is told.
        network: what they led to: its values are floats still, the integers marked beside them.
        data: training rows, the recipe's.
    """
    steps = [step for step in recipe.steps if isinstance(step, QuantizeStatic)]
    if not steps:
        model = to_onnx(network)
        if not any(_is_static(step) for step in recipe.endings):
            return []
        feeds = bind_rows(Session(model.SerializeToString()), data.train)
        return clipping_of_graph(recipe, model, feeds, seed=data.seed)
    placement = place(network, steps[-1].layers, steps[-1].keep_float)
    seen = steps[-1].histograms(network, placement.observed, data)
    limits = {
        source: held_range(network.activation_qparams[value])
        for value, source in placement.values.items()
    }
    return [_told(name, seen[name], limits[name]) for name in placement.observed]


def clipping_of_graph(
    recipe: Recipe, model: onnx.ModelProto, feeds: Mapping[str, Array], *, seed: int
) -> list[dict[str, Any]]:
    """The part ``calibration`` of the report, for what steps made of a graph.

    Args:
        recipe: the steps are its endings, on the graph; without static integers nothing is told.
        model: what they began with.
        feeds: training rows as it takes them.
        seed: of the choice of calibration rows.
    """
    rows = calibration_rows(feeds, seed=seed)
    batch = fixed_batch(Session(model.SerializeToString()))
    for step in recipe.endings:
        if isinstance(step, PostTraining) and step.static:
            seen = step.histograms(model, rows, batch=batch)
            limits = _limits(step.apply(model, rows, batch=batch))
            return [_told(name, seen[name], limits[name]) for name in seen if name in limits]
        model = step.apply(model, rows, batch=batch)
    return []


# ----- below


def _is_static(step: object) -> bool:
    return isinstance(step, PostTraining) and bool(step.static)


def _limits(model: onnx.ModelProto) -> dict[str, Range]:
    """What each activation's integers hold, read from the quantized file."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found: dict[str, Range] = {}
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or not all(n in constants for n in node.input[1:3]):
            continue
        scale, zero_point = (numpy_helper.to_array(constants[n]) for n in node.input[1:3])
        if scale.size == 1:
            found[node.input[0]] = held_range(QParams(scale, zero_point, None, "uint8"))
    return found


def _told(name: str, seen: Histogram, limits: Range) -> dict[str, Any]:
    counts, low, high = seen.condensed(MOST_BINS)
    return {
        "name": name,
        "counts": counts.tolist(),
        "low": low,
        "high": high,
        "cut_low": limits[0],
        "cut_high": limits[1],
        "clipped": seen.share_outside(*limits),
        "not_finite": seen.n_strange,
    }
