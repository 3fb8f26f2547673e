"""What a trained network does inside, and on every single row: measures, no verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from hlserve.nn.evaluation import EVALUATION_BATCH, Rows
from hlserve.nn.examples import Examples
from hlserve.nn.losses import Loss, Targets
from hlserve.nn.network import Network, Node
from hlserve.nn.param import Array
from hlserve.nn.split import Indices
from hlserve.nn.workspace import Workspace

DIAGNOSIS_BATCH = 64  # rows at a time: every activation of the network is held for so many

# Layers whose units are silent for good once they are zero on every row.
_RECTIFIERS = frozenset({"ReLU"})
# Where an activation counts as saturated: the slope there is below a tenth of the largest.
_FLAT_ENDS = {
    "Sigmoid": (0.026, 0.974),  # y (1 - y) < 0.1 / 4
    "Tanh": (-0.949, 0.949),  # 1 - y^2 < 0.1
    "RNN": (-0.949, 0.949),
    "LSTM": (-0.949, 0.949),
    "GRU": (-0.949, 0.949),
}


@final
@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """A layer on some rows, as in prediction.

    Attributes:
        name, kind: of the node, and its layer's class.
        output_shape: of one row.
        mean, std: over all activations.
        dead: for rectifiers the share of units (channels, for images and sequences) that are
            zero on every row and at every position; else None.
        saturated: for layers with flat ends the share of activations there; else None.
        n_parameters: trained ones.
        weight_rms: root mean square of the trained parameters; None without any.
        gradient_rms: the same of their gradients, over single batches; None without any.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    mean: float
    std: float
    dead: float | None
    saturated: float | None
    n_parameters: int
    weight_rms: float | None
    gradient_rms: float | None


def layer_statistics(
    network: Network, rows: Rows, targets: Targets, loss: Loss, indices: Indices
) -> list[LayerStatistics]:
    """Statistics of every layer, in graph order, over the rows at ``indices``.

    Gradients are those of the loss on batches of 64 rows; the network's ``grad`` is zero after.

    Args:
        network: keeps its values.
        rows: see ``fit``.
        targets: see ``fit``.
        loss: what the network was trained on.
        indices: a few hundred rows; memory grows with the batch, not with them.

    Raises:
        DataError: rows or targets do not fit the network.
    """
    examples = Examples.checked(network, rows, targets)
    seen = {node.name: _Seen(node) for node in network.nodes}
    squares = dict.fromkeys(seen, 0.0)
    workspace, buffers, n_batches = network.workspace(), Workspace(), 0
    for start in range(0, len(indices), DIAGNOSIS_BATCH):
        inputs, wanted = examples.take(indices[start : start + DIAGNOSIS_BATCH], buffers)
        for name, activation in network.activations(inputs, list(seen), workspace).items():
            seen[name].add(activation)
        for name, square in _gradient_squares(network, inputs, wanted, loss, workspace):
            squares[name] += square
        n_batches += 1
    network.grad.fill(0)
    return [
        seen[node.name].statistics(network, squares[node.name] / max(1, n_batches))
        for node in network.nodes
    ]


@final
@dataclass(frozen=True, slots=True)
class RowResults:
    """What the network says about single rows.

    Attributes:
        indices: (rows,), which rows.
        outputs: (rows, outputs), as ``predict`` gives them.
        losses: (rows,) float64, of every row by itself.
    """

    indices: Indices
    outputs: Array
    losses: NDArray[np.float64]


def row_results(
    network: Network, rows: Rows, targets: Targets, loss: Loss, indices: Indices
) -> RowResults:
    """Outputs and losses of the rows at ``indices``, one by one; ``loss`` as in ``fit``.

    A loss that weighs its rows sees each alone, so what it gives then is unweighted.

    Raises:
        DataError: rows or targets do not fit the network.
    """
    examples = Examples.checked(network, rows, targets)
    final_node = next(iter(network.outputs.values()))
    names = [network.logits_node, final_node]
    outputs = np.empty((len(indices), *network.shapes[final_node]), network.dtype)
    losses = np.empty(len(indices), np.float64)
    workspace, buffers = network.workspace(), Workspace()
    for start in range(0, len(indices), EVALUATION_BATCH):
        batch = indices[start : start + EVALUATION_BATCH]
        inputs, wanted = examples.take(batch, buffers)
        values = network.activations(inputs, names, workspace)
        outputs[start : start + len(batch)] = np.moveaxis(values[final_node], -1, 0)
        scores = values[network.logits_node]
        for i in range(len(batch)):
            one = np.ascontiguousarray(scores[..., i : i + 1])
            losses[start + i] = loss(one, _one(wanted, i))[0]
    return RowResults(np.asarray(indices), outputs, losses)


class _Seen:
    """Sums over the batches of one node's activations."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._kind = type(node.layer).__name__
        self._ends = _FLAT_ENDS.get(self._kind)
        self._count = self._flat = 0
        self._sum = self._squares = 0.0
        self._alive: NDArray[np.bool_] | None = None

    def add(self, y: Array) -> None:
        self._count += y.size
        self._sum += float(np.sum(y, dtype=np.float64))
        self._squares += float(np.sum(np.square(y), dtype=np.float64))
        if self._ends is not None:
            low, high = self._ends
            self._flat += int(np.sum((y < low) | (y > high)))
        if self._kind in _RECTIFIERS:
            alive = (y != 0).any(axis=-1)
            self._alive = alive if self._alive is None else self._alive | alive

    def statistics(self, network: Network, gradient_square: float) -> LayerStatistics:
        trained = [p.value for p in self._node.layer.params().values() if p.is_trained]
        size = sum(value.size for value in trained)
        count = max(1, self._count)
        mean = self._sum / count
        weights = sum(float(np.square(value, dtype=np.float64).sum()) for value in trained)
        return LayerStatistics(
            name=self._node.name,
            kind=self._kind,
            output_shape=network.shapes[self._node.name],
            mean=mean,
            std=float(np.sqrt(max(0.0, self._squares / count - mean * mean))),
            dead=self._dead(),
            saturated=None if self._ends is None else self._flat / count,
            n_parameters=size,
            weight_rms=float(np.sqrt(weights / size)) if size else None,
            gradient_rms=float(np.sqrt(gradient_square / size)) if size else None,
        )

    def _dead(self) -> float | None:
        """Units lie on the first axis, but in sequences (time, features, batch) on the second.

        Convolutions along one axis have (channels, length, batch), so three axes do not tell
        which; no channel at all is ever silent on the wrong one, so the larger share is right.
        """
        if self._alive is None:
            return None
        alive = self._alive.reshape(len(self._alive), -1)
        dead = 1 - float(alive.any(axis=1).mean())
        if self._alive.ndim != 2:
            return dead
        return max(dead, 1 - float(alive.any(axis=0).mean()))


def _gradient_squares(
    network: Network,
    inputs: Mapping[str, Array],
    targets: Targets,
    loss: Loss,
    workspace: Workspace,
) -> Iterator[tuple[str, float]]:
    """Node by node the sum of squares of the batch's gradient; dropout is off."""
    network.grad.fill(0)
    scores, backward = network.forward(inputs, workspace=workspace, until=network.logits_node)
    _, d_scores = loss(scores, targets)
    backward(d_scores)
    for node in network.nodes:
        grads = [p.grad for p in node.layer.params().values() if p.is_trained]
        yield node.name, sum(float(np.square(g, dtype=np.float64).sum()) for g in grads)


def _one(targets: Targets, i: int) -> Targets:
    if isinstance(targets, Mapping):
        return {name: array[i : i + 1] for name, array in targets.items()}
    return targets[i : i + 1]
