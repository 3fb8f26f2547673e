"""The best epoch of a run, and its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

import numpy as np

from hlserve.nn.evaluation import Metric
from hlserve.nn.history import EpochRecord
from hlserve.nn.network import Network
from hlserve.nn.param import Array


@final
class Best:
    """Remembers the weights of the best epoch.

    Attributes:
        epoch: the best one's number, or None.
        rank: how good the metric is, 0 where epochs are ranked by loss alone, -inf where it is
            not defined; the loss below 0.
        arrays: its "value" and "statistics"; empty before the first.
    """

    def __init__(self, network: Network, metric: Metric | None) -> None:
        self.epoch: int | None = None
        self.rank: tuple[float, float] | None = None
        self.arrays: dict[str, Array] = {}
        self._network = network
        self._metric = metric

    def offer(self, record: EpochRecord) -> None:
        """Takes the network's weights if the record is the best so far."""
        if record.validation_loss is None:
            return
        rank = (self._goodness(record.validation_metric), -record.validation_loss)
        if self.rank is None or rank > self.rank:
            self.rank, self.epoch = rank, record.epoch
            network = self._network
            self.arrays = {"value": network.value.copy(), "statistics": network.statistics.copy()}

    def _goodness(self, value: float | None) -> float:
        if self._metric is None or value is None:
            return 0.0
        if math.isnan(value):  # such as the ROC-AUC of rows of one class
            return -math.inf
        return value if self._metric.is_larger_better else -value

    def state(self) -> dict[str, Array]:
        """What ``load`` takes beside the epoch: "value", "statistics" and "rank", or nothing."""
        if self.rank is None:
            return {}
        # As an array, because JSON knows no infinity, and to the last bit.
        return {**self.arrays, "rank": np.array(self.rank, np.float64)}

    def load(self, epoch: int | None, state: Mapping[str, Array]) -> None:
        """Remembers what an earlier run found."""
        self.epoch, self.rank, self.arrays = epoch, None, {}
        if state:
            metric, loss = state["rank"].tolist()
            self.rank = (metric, loss)
            self.arrays = {name: state[name] for name in ("value", "statistics")}

    def epochs_since(self, epoch: int) -> int:
        """How many epochs have passed without a better one."""
        return epoch - (self.epoch or 0)

    def restore(self) -> None:
        """Gives the network the best weights, if there are any."""
        if self.arrays:
            self._network.value[...] = self.arrays["value"]
            self._network.statistics[...] = self.arrays["statistics"]
