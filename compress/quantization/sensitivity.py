"""How much each layer's integers change what the network answers."""

from __future__ import annotations

import numpy as np

from compress.export import feeds_of, to_onnx
from compress.quantization.placement import place
from compress.quantization.static import QuantizeStatic
from compress.session import Session
from compress.technique import Data, affordable_rows
from hlserve.nn.network import Network
from hlserve.nn.param import Array

ROWS = 256  # the ranking hardly moves beyond


def layer_damage(
    network: Network, data: Data, step: QuantizeStatic, *, rows: int = ROWS
) -> dict[str, float]:
    """For every layer that ``step`` would put in integers, what becomes of the answers.

    Only that layer is quantized, the network run in ONNX Runtime: the mean squared change of
    its scores ahead of the closing Softmax, as a share of their variance. Ranges are found once
    for all of them, and biases stay as they were.

    Args:
        network: in floats, folded.
        data: rows to calibrate with and to compare on.
        step: how layers are quantized.
        rows: how many are compared at most; of a large network they are fewer.
    """
    bare = Network(
        network.inputs,
        network.nodes,
        {"scores": network.logits_node},
        task=network.task,
    )
    names = list(place(bare, step.layers, step.keep_float).layers)
    if not names:
        return {}
    alone = {name: place(bare, step.layers, {*step.keep_float, *names} - {name}) for name in names}
    observed = sorted({value for placement in alone.values() for value in placement.observed})
    qparams = step.qparams(bare, observed, data)
    rows = affordable_rows(bare, rows, times=len(names))
    few = bare.named_rows(data.train.take(slice(0, rows)).inputs)
    wanted = bare.predict(few)["scores"]
    return {
        name: _change(_answers(step.marked(bare, placement, qparams), few), wanted)
        for name, placement in alone.items()
        if placement.layers  # else it is no island by itself
    }


# ----- below


def _answers(network: Network, rows: dict[str, Array]) -> Array:
    session = Session(to_onnx(network).SerializeToString())
    return session.run(feeds_of(network, rows))["scores"]


def _change(answers: Array, wanted: Array) -> float:
    spread = float(np.var(wanted, dtype=np.float64))
    return float(np.mean(np.square(answers.astype(np.float64) - wanted))) / (spread or 1.0)
