"""Static int8: what every value looks like is learned once, from some rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from compress.export import dequantize_array, quantize_array
from compress.quantization.bias_correction import corrected_biases, rows_that_fit
from compress.quantization.observer import (
    activation_qparams,
    bias_qparams,
    percentile_ranges,
    value_ranges,
    weight_qparams,
)
from compress.quantization.placement import place
from compress.technique import Compressed, Data, Kinds, Technique, require_floats
from hlserve.errors import CompressionError, ConfigError
from hlserve.nn.network import Network
from hlserve.nn.param import Array, Param

BATCH_SIZE = 64  # rows observed at a time; memory does not grow with the number of rows


@final
@dataclass(frozen=True, slots=True)
class QuantizeStatic(Technique):
    """uint8 activations, int8 weights a scale each output channel, int32 biases.

    Source: Jacob et al. 2018, arXiv:1712.05877. Unsigned activations and signed weights are
    what x86 processors multiply fastest. Values are only marked here; the exporter writes them
    as QuantizeLinear and DequantizeLinear, and ONNX Runtime fuses those around each layer.

    Attributes:
        observer: ``minmax`` takes the whole range seen, ``percentile`` cuts off outliers.
        percentile: how many % of the values the latter keeps.
        rows: how many training rows to observe.
        layers: ``all``, or ``linear`` to leave convolutions in floats.
        per_channel: a scale for each output channel of the weights, or one for all of a layer.
        bias_correction: whether to take the mean shift that rounding the weights gives each
            output out of the bias (Nagel et al. 2019, arXiv:1906.04721, section 4.2).
        keep_float: names of nodes whose weights stay floats.
    """

    observer: Literal["minmax", "percentile"] = "minmax"
    percentile: float = 99.99
    rows: int = 512
    layers: Kinds = "all"
    per_channel: bool = True
    bias_correction: bool = False
    keep_float: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rows < 1 or not 50 < self.percentile <= 100:
            raise ConfigError(
                f"QuantizeStatic: rows is {self.rows}, expected 1 or more, and percentile "
                f"{self.percentile}, expected above 50 and up to 100"
            )

    def requires(self, network: Network, data: Data) -> None:
        """See Technique."""
        require_floats("QuantizeStatic", network)
        if not place(network, self.layers, self.keep_float).layers:
            raise CompressionError("QuantizeStatic: no layer of this network runs in integers")

    def transform(self, network: Network, data: Data) -> Compressed:
        """See Technique."""
        result = network.copy()
        placement = place(result, self.layers, self.keep_float)
        ranges = value_ranges(self._batches(result, placement.observed, data))
        if self.observer == "percentile":
            again = self._batches(result, placement.observed, data)
            ranges = percentile_ranges(again, ranges, self.percentile)
        for value, source in placement.values.items():
            result.activation_qparams[value] = activation_qparams(ranges[source])
        for name, source in placement.layers.items():
            params = result.node(name).layer.params()
            input_scale = float(activation_qparams(ranges[source]).scale)
            self._quantize(params, input_scale)
        if self.bias_correction:
            self._correct(network, result, data, list(placement.layers))
        return Compressed(result)

    def _quantize(self, params: dict[str, Param], input_scale: float) -> None:
        weight, bias = params["weight"], params.get("bias")
        weight.qparams = weight_qparams(
            weight.value,
            (weight.out_axis or 0) if self.per_channel else None,
            bias=None if bias is None else bias.value,
            input_scale=input_scale,
        )
        if bias is not None:
            bias.qparams = bias_qparams(weight.qparams, input_scale)

    def _correct(self, network: Network, result: Network, data: Data, names: list[str]) -> None:
        """Layer by layer, each after those ahead of it: their shifts are gone already."""
        rounded = network.copy()
        for name in names:
            weight = result.node(name).layer.params()["weight"]
            assert weight.qparams is not None  # transform
            integers = quantize_array(weight.value, weight.qparams)
            values = dequantize_array(integers, weight.qparams)
            rounded.node(name).layer.params()["weight"].value[...] = values
        rows = list(self._rows(data, most=rows_that_fit(network)))
        for name, bias in corrected_biases(network, rounded, names, rows).items():
            result.node(name).layer.params()["bias"].value[...] = bias

    def _batches(
        self, network: Network, names: list[str], data: Data
    ) -> Iterator[dict[str, Array]]:
        workspace = network.workspace()
        for rows in self._rows(data):
            yield network.activations(rows, names, workspace)

    def _rows(self, data: Data, most: int | None = None) -> Iterator[Mapping[str, Array]]:
        """Batches of the rows to observe, at most so many rows."""
        order = np.random.default_rng(data.seed).permutation(len(data.train))[: self.rows][:most]
        for start in range(0, len(order), BATCH_SIZE):
            yield data.train.take(np.sort(order[start : start + BATCH_SIZE])).inputs
