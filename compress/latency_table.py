"""How long a network of other widths would take: measured group by group in ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import onnx

from compress.evaluate import take_rows
from compress.export import to_onnx
from compress.latency import MIN_ROUNDS, TURN_S, measure
from compress.pruning import Costs, PruneChannels, costs
from compress.session import Session
from compress.technique import Data, Kinds
from hlserve.datasets import Rows
from hlserve.errors import CompressionError
from hlserve.nn.network import Network
from hlserve.nn.param import Array

_WHOLE, _NARROWEST = "whole", "narrowest"
Widths = tuple[int, ...]


@final
@dataclass(frozen=True, slots=True)
class LatencyTable:
    """Latencies of networks that are thinner in one group each; others are predicted from them.

    What the groups save adds up, as Yang et al. 2018 (NetAdapt, arXiv:1804.03230, section 3.3)
    add up layers; but a layer between two groups would be saved twice. So the sum is scaled by
    the multiply-accumulates that are really saved over those that the groups save alone.
    Between the widths that were measured it is interpolated, and nothing is taken to be faster
    than the narrowest network was.

    Attributes:
        batches: rows a run.
        grid: the widths measured of each group, the whole one first.
        whole_s, narrowest_s: seconds of the network as it came and with every group at its
            narrowest, by batch size.
        saved_s: for each group, seconds saved at each of its widths (widths, batches).
        costs: what widths cost otherwise.
    """

    batches: tuple[int, ...]
    grid: tuple[Widths, ...]
    whole_s: Array
    narrowest_s: Array
    saved_s: tuple[Array, ...]
    costs: Costs

    def predict(self, widths: Array | Sequence[int]) -> Array:
        """Seconds by batch size; widths (..., groups) -> (..., batches)."""
        wanted = np.asarray(widths, np.float64)
        saved = np.zeros((*wanted.shape[:-1], len(self.batches)))
        for number, (measured, seconds) in enumerate(zip(self.grid, self.saved_s, strict=True)):
            for batch in range(len(self.batches)):
                saved[..., batch] += np.interp(
                    wanted[..., number], measured[::-1], seconds[::-1, batch]
                )
        saved *= self._overlap(wanted)[..., None]
        floor = np.minimum(self.whole_s, self.narrowest_s)
        return np.asarray(np.maximum(self.whole_s - saved, floor))

    def relative(self, widths: Array | Sequence[int]) -> Array:
        """The geometric mean over the batch sizes of the share of the whole network's time.

        widths (..., groups) -> (...).
        """
        return np.asarray(np.exp(np.log(self.predict(widths) / self.whole_s).mean(axis=-1)))

    def _overlap(self, widths: Array) -> Array:
        """What is saved at once over what is saved one group at a time, up to 1."""
        whole = np.array([measured[0] for measured in self.grid], np.float64)
        everything = self.costs.macs(whole)
        together = everything - self.costs.macs(widths)
        apart = np.zeros(widths.shape[:-1])
        for number in range(len(self.grid)):
            alone = np.broadcast_to(whole, widths.shape).copy()
            alone[..., number] = widths[..., number]
            apart += everything - self.costs.macs(alone)
        return np.where(apart > 0, together / np.where(apart > 0, apart, 1.0), 1.0)


def measure_table(
    network: Network,
    grid: Sequence[Widths],
    feeds: Mapping[str, Array],
    batches: Sequence[int],
    *,
    layers: Kinds = "all",
    ending: Callable[[Network], onnx.ModelProto] = to_onnx,
    load: Callable[[bytes], Session] = Session,
    budget_s: float = 20.0,
    progress: bool = False,
) -> LatencyTable:
    """Prunes one group at a time, exports and measures all of these in turns.

    Which units go makes no difference to the time, so the weights' norms decide and nothing is
    trained.

    Args:
        network: the whole one; it is not changed.
        grid: widths of every group of ``groups(network, layers)``, the whole one first; where
            the budget is too small for all of them, those in between are left out.
        feeds: rows as the model takes them.
        batches: rows a run.
        layers: as in ``groups``.
        ending: makes the file that is measured, such as one in integers.
        load: makes the session, on the provider that is wanted.
        budget_s: about how long it may take; every group is measured at its narrowest anyhow.
        progress: whether a terminal shows a bar.

    Raises:
        CompressionError: the grid does not fit the groups.
    """
    whole = tuple(widths[0] for widths in grid if widths)
    if len(whole) != len(grid):
        raise CompressionError(f"a group of the grid {[list(w) for w in grid]} has no width")
    rows = take_rows(feeds, np.arange(max(batches)))
    data = Data(Rows(rows))

    def built(widths: Widths) -> Session:
        step = PruneChannels(widths=widths, importance="l1", layers=layers)
        return load(ending(step.apply(network, data).network).SerializeToString())

    started = time.perf_counter()
    sessions = {_WHOLE: built(whole)}
    turn_s = _turn_s(sessions[_WHOLE], rows, batches) + time.perf_counter() - started
    thinned = _thinned(grid, round(budget_s / turn_s))
    sessions[_NARROWEST] = built(tuple(widths[-1] for widths in thinned))
    for number, widths in enumerate(thinned):
        for width in widths[1:]:
            alone = (*whole[:number], width, *whole[number + 1 :])
            sessions[f"{number} {width}"] = built(alone)
    left_s = max(0.0, budget_s - (time.perf_counter() - started))
    found = measure(sessions, rows, batches, budget_s=left_s, progress=progress)
    seconds = {
        name: np.array([by_batch[batch].p50_s for batch in batches])
        for name, by_batch in found.items()
    }
    saved = tuple(
        np.array([seconds[_WHOLE] - seconds[f"{n} {w}" if w != ws[0] else _WHOLE] for w in ws])
        for n, ws in enumerate(thinned)
    )
    return LatencyTable(
        tuple(batches),
        thinned,
        seconds[_WHOLE],
        seconds[_NARROWEST],
        saved,
        costs(network, layers),
    )


# ----- below


def _turn_s(session: Session, rows: Mapping[str, Array], batches: Sequence[int]) -> float:
    """About what the fewest rounds of one model take over all batch sizes."""
    total = 0.0
    for batch in batches:
        few = take_rows(rows, np.arange(batch))
        session.run(few)  # the first run allocates
        started = time.perf_counter()
        session.run(few)
        total += MIN_ROUNDS * (TURN_S + 2 * (time.perf_counter() - started))
    return total


def _thinned(grid: Sequence[Widths], n_models: int) -> tuple[Widths, ...]:
    """Every group with its ends, and with as many widths between as the models allow for."""
    points = max(2, 1 + (n_models - 2) // max(1, len(grid)))
    thinned = []
    for widths in grid:
        kept = np.unique(np.linspace(0, len(widths) - 1, min(points, len(widths))).round())
        thinned.append(tuple(widths[int(n)] for n in kept))
    return tuple(thinned)
