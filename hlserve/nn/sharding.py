"""Half a batch a thread: each has buffers and gradients of its own, which are then added.

Convolutions and recurrent layers are many small products and elementwise passes, which a second
BLAS thread hardly speeds up; two Python threads do, since NumPy frees the interpreter's lock.
Dense layers are few large products: there BLAS's own threads win.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import final

import numpy as np

from hlserve.nn.batches import Batch
from hlserve.nn.fusion import fused
from hlserve.nn.losses import Loss
from hlserve.nn.losses.loss import Weighing
from hlserve.nn.network import Network
from hlserve.nn.workspace import Workspace

SMALLEST_SHARD = 16  # rows; below, starting a thread costs what it gains
REUSED = 2  # a layer with so many multiply-accumulates a weight and row uses its weights again


def n_shards(network: Network, threads: int | None, batch_size: int) -> int:
    """Into how many parts a batch is split: ``threads``, or 1 where BLAS does better.

    Split are batches of at least 16 rows a thread for networks most of whose work is in layers
    that use each weight more than once a row: convolutions, recurrent layers, attention over a
    sequence.
    """
    if threads is None or threads < 2 or batch_size < threads * SMALLEST_SHARD:
        return 1
    total = reused = 0
    for node in network.nodes:
        macs = node.layer.macs(*(network.shapes[i] for i in node.inputs))
        weights = sum(p.value.size for p in node.layer.params().values() if p.is_trained)
        total += macs
        reused += macs if macs >= REUSED * weights else 0
    return threads if 2 * reused > total else 1


@final
class Shards:
    """Computes the gradient of a batch, in as many threads as there are shards.

    The first shard is the network itself and works in the caller's thread. Gradients are added
    in the shards' order, so a run repeats bit for bit. Layers see their own part of the batch
    only; what they draw or keep (dropout, running statistics) is each shard's own, and the
    network's statistics become the shards' mean, weighted by rows.
    """

    def __init__(self, network: Network, loss: Loss, rngs: Sequence[np.random.Generator]) -> None:
        self.rngs = tuple(rngs)
        self._network = network
        self._shards = [_Shard(fused(network), loss, network.workspace(rngs[0]))]
        for rng in rngs[1:]:
            replica = fused(network.replica())
            self._shards.append(_Shard(replica, copy.deepcopy(loss), replica.workspace(rng)))
        self._pool = ThreadPoolExecutor(max(1, len(rngs) - 1), thread_name_prefix="shard")

    @property
    def network(self) -> Network:
        """The network as the first shard runs it: the same answers and parameters."""
        return self._shards[0].network

    @property
    def workspace(self) -> Workspace:
        """The buffers of the first shard; free between two batches."""
        return self._shards[0].workspace

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()

    def add_gradients(self, parts: Sequence[Batch]) -> tuple[float, float]:
        """The loss of all the parts' rows together, and what they weigh in a mean.

        The loss's gradient is in ``network.grad``. The parts are worked off one after the other,
        each split among the shards. Not finite where the loss is not, and then there is no
        gradient.
        """
        total = math.fsum(self._shards[0].weight(part) for part in parts)
        portions: list[list[Batch]] = [self._split(part) for part in parts]
        futures = [
            self._pool.submit(shard.add_gradients, [p[i] for p in portions], total)
            for i, shard in enumerate(self._shards[1:], start=1)
        ]
        try:
            value = self._shards[0].add_gradients([p[0] for p in portions], total)
        finally:
            others = [future.result() for future in futures]
        for shard in self._shards[1:]:
            self._network.grad += shard.network.grad
        self._average_statistics(portions)
        return value + math.fsum(others), total

    def _split(self, batch: Batch) -> list[Batch]:
        n, k = len(batch), len(self._shards)
        if k == 1:
            return [batch]
        return [batch.rows(n * i // k, n * (i + 1) // k) for i in range(k)]

    def _average_statistics(self, portions: Sequence[Sequence[Batch]]) -> None:
        statistics = self._network.statistics
        if len(self._shards) == 1 or not statistics.size:
            return
        rows = [sum(len(p[i]) for p in portions) for i in range(len(self._shards))]
        statistics *= rows[0] / sum(rows)
        for shard, n in zip(self._shards[1:], rows[1:], strict=True):
            statistics += shard.network.statistics * (n / sum(rows))
        self.share_statistics()

    def share_statistics(self) -> None:
        """Gives every shard the network's statistics."""
        for shard in self._shards[1:]:
            shard.network.statistics[...] = self._network.statistics


@final
class _Shard:
    def __init__(self, network: Network, loss: Loss, workspace: Workspace) -> None:
        self.network = network
        self.workspace = workspace
        self._loss = loss
        # Asked once: a Protocol of methods is slow to compare with.
        self._weighing = loss if isinstance(loss, Weighing) else None

    def weight(self, part: Batch) -> float:
        """What the rows weigh in a mean; see ``losses.total_weight``."""
        weighing = self._weighing
        return float(len(part)) if weighing is None else weighing.total_weight(part.targets)

    def add_gradients(self, parts: Sequence[Batch], total: float) -> float:
        """The sum of the parts' losses, each times its share of the ``total`` weight."""
        self.network.grad.fill(0)
        value = 0.0
        # Overflow is found by looking at the loss; NumPy's setting is a thread's own.
        with np.errstate(all="ignore"):
            for part in parts:
                if len(part):
                    value += self._add_gradient(part, total)
        return value

    def _add_gradient(self, part: Batch, total: float) -> float:
        scores, backward = self.network.forward(
            part.inputs,
            training=True,
            workspace=self.workspace,
            until=self.network.logits_node,
        )
        value, d_scores = self._loss(scores, part.targets)
        share = self.weight(part) / (total or 1.0)
        if math.isfinite(value):
            if share != 1.0:
                d_scores *= share
            backward(d_scores)
        return value * share
