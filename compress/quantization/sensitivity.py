"""How much each layer's integers change what the network answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from compress.export import feeds_of, to_onnx
from compress.quantization.placement import place
from compress.quantization.static import QuantizeStatic
from compress.session import Session
from compress.technique import Data
from hlserve.errors import CompressionError
from hlserve.nn.network import Network
from hlserve.nn.param import Array

ROWS = 256  # the ranking hardly moves beyond


def layer_damage(
    network: Network, data: Data, step: QuantizeStatic, *, rows: int = ROWS
) -> dict[str, float]:
    """For every layer that ``step`` would put in integers, what becomes of the answers.

    Only that layer is quantized, the network run in ONNX Runtime: the mean squared change of
    its scores ahead of the closing Softmax, as a share of their variance.

    Args:
        network: in floats, folded.
        data: rows to calibrate with and to compare on.
        step: how layers are quantized.
        rows: how many are compared.
    """
    bare = Network(
        network.inputs,
        network.nodes,
        {"scores": network.logits_node},
        task=network.task,
    )
    few = bare.named_rows(data.train.take(slice(0, rows)).inputs)
    wanted = bare.predict(few)["scores"]
    names = list(place(bare, step.layers, step.keep_float).layers)
    found: dict[str, float] = {}
    for name in names:
        others = tuple(sorted({*step.keep_float, *names} - {name}))
        try:
            alone = replace(step, keep_float=others).apply(bare, data).network
        except CompressionError:  # by itself it is no island
            continue
        found[name] = _change(_answers(alone, few), wanted)
    return found


# ----- below


def _answers(network: Network, rows: dict[str, Array]) -> Array:
    session = Session(to_onnx(network).SerializeToString())
    return session.run(feeds_of(network, rows))["scores"]


def _change(answers: Array, wanted: Array) -> float:
    spread = float(np.var(wanted, dtype=np.float64))
    return float(np.mean(np.square(answers.astype(np.float64) - wanted))) / (spread or 1.0)
