"""What every technique is: network in, network out, with a row that says what it did."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from compress.export import to_onnx
from hlserve.datasets import Rows
from hlserve.errors import CompressionError
from hlserve.nn.network import Network
from hlserve.nn.param import Array

LOOK_MACS = 100_000_000_000  # multiply-accumulates that one look at a network may take: seconds

Kinds = Literal["all", "linear"]  # of layers with weights; "linear" leaves convolutions alone


@dataclass(frozen=True, slots=True)
class Data:
    """What techniques may learn from. Rows that judge the result are never among them.

    Attributes:
        train: to fine-tune on and to calibrate with.
        teacher_logits: (rows, outputs) for the training rows, from the model that distillation
            imitates; None without one.
        image_shape: (channels, height, width) of a row, where the user's rows are images; the
            network may take them flat. None where they are not.
        seed: of every random choice.
        progress: whether a terminal shows bars.
    """

    train: Rows
    teacher_logits: Array | None = None
    image_shape: tuple[int, int, int] | None = None
    seed: int = 0
    progress: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """One step of a recipe, after it.

    Attributes:
        technique: the class's name.
        settings: its fields.
        parameters, macs: of the network; multiply-accumulates are those of one row, None where
            they are not known.
        size_bytes: of the exported file.
        seconds: wall time.
    """

    technique: str
    settings: dict[str, Any]
    parameters: int
    macs: int | None
    size_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Compressed:
    """A network and the steps that led to it; a technique of one step leaves ``reports`` empty."""

    network: Network
    reports: tuple[Report, ...] = field(default=())


class Technique(ABC):
    """A way to make a network smaller or faster.

    Implementations are final, frozen dataclasses whose fields are their settings. They write
    ``transform``, and ``requires`` and ``ensures`` where there is something to check.
    """

    def apply(self, network: Network, data: Data) -> Compressed:
        """A new network; the one given stays as it is.

        Raises:
            CompressionError: the network or the data do not fit, or the technique is at fault.
        """
        self.requires(network, data)
        before = np.concatenate([network.value, network.statistics])
        started = time.perf_counter()
        result = self.transform(network, data)
        seconds = time.perf_counter() - started
        self._check_that_input_is_untouched(network, before, result.network)
        self.ensures(network, result.network)
        reports = result.reports or (self._report(result.network, seconds),)
        return Compressed(result.network, reports)

    @abstractmethod
    def transform(self, network: Network, data: Data) -> Compressed:
        """Does the work on a copy; what ``requires`` asks for holds."""

    def requires(self, network: Network, data: Data) -> None:  # noqa: B027  # most need nothing
        """Refuses networks and data that the technique cannot take."""

    def ensures(self, before: Network, after: Network) -> None:
        """Refuses a result that broke what the technique promises."""
        for name, node in before.outputs.items():
            was, now = before.shapes[node], after.shapes[after.outputs[name]]
            if was != now:
                raise CompressionError(f"{type(self).__name__}: output {name!r} {was} became {now}")

    def settings(self) -> dict[str, Any]:
        """The fields, as JSON and TOML can hold them."""
        values = dataclasses.asdict(self)  # type: ignore[call-overload]  # each is a dataclass
        return {name: value for name, value in values.items() if value is not None}

    def _check_that_input_is_untouched(
        self, network: Network, before: Array, after: Network
    ) -> None:
        now = np.concatenate([network.value, network.statistics])
        if after is network or not np.array_equal(before, now):
            raise CompressionError(
                f"{type(self).__name__} changed the network that it was given; "
                "its transform must work on a copy"
            )

    def _report(self, network: Network, seconds: float) -> Report:
        return Report(
            technique=type(self).__name__,
            settings=self.settings(),
            parameters=network.n_parameters,
            macs=network.macs(),
            size_bytes=to_onnx(network).ByteSize(),
            seconds=seconds,
        )


def affordable_rows(network: Network, most: int, *, times: int = 1, fewest: int = 16) -> int:
    """How many rows to look at where more would only take longer: fewer of a large network.

    Args:
        network: what the rows run through.
        most: as many are enough for any network.
        times: how often each row runs.
        fewest: with less nothing is learned.
    """
    macs = max(1, network.macs() or 0) * times
    return min(most, max(fewest, LOOK_MACS // macs))


def require_floats(technique: str, network: Network) -> None:
    """Refuses a network that is quantized already.

    Raises:
        CompressionError: it is; integers come last in a recipe.
    """
    if network.activation_qparams or any(p.qparams for p in network.params().values()):
        raise CompressionError(f"{technique}: the network is quantized already; quantize last")
