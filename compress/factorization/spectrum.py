"""What a Linear's outputs are made of: orthogonal directions, the strongest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compress.technique import Data
from hlserve.nn.network import Network, Node
from hlserve.nn.param import Array

_BATCH_SIZE = 256  # rows at a time: memory does not grow with the rows looked at


@dataclass(frozen=True, slots=True)
class Spectrum:
    """One Linear's directions.

    Attributes:
        name: the node's.
        out_features, in_features: its size.
        directions: (out_features, min(out_features, in_features)), orthonormal columns.
        energies: what each direction holds of the outputs' variance, or of the weights' squares,
            from the largest down.
        mean: (in_features,) of the inputs; zeros where no rows were looked at.
    """

    name: str
    out_features: int
    in_features: int
    directions: Array
    energies: Array
    mean: Array

    def relative_error(self, rank: int) -> float:
        """The root of what is lost by the first ``rank`` directions alone, as a share of all.

        Eckart & Young 1936: no other matrix of that rank loses less.
        """
        total = float(self.energies.sum())
        return float(np.sqrt(self.energies[rank:].sum() / total)) if total > 0 else 0.0


def spectra(
    network: Network, nodes: Sequence[Node], data: Data | None, *, rows: int
) -> tuple[Spectrum, ...]:
    """The directions of some Linear nodes: of their outputs on rows, or of their weights.

    With rows the outputs' covariance W C W^T is decomposed, where C is that of the inputs, so
    that inputs which never vary cost nothing: Chen et al. 2021, "DRONE: Data-aware Low-rank
    Compression for Large NLP Models", NeurIPS, taken around the mean, which the bias can hold.

    Args:
        network: holds the nodes.
        nodes: of class Linear.
        data: whose training rows are run; None looks at the weights alone.
        rows: how many at most, drawn by the data's seed.
    """
    if data is None:
        return tuple(_of_weights(node) for node in nodes)
    return tuple(_of_outputs(network, nodes, data, rows))


# ----- below


@dataclass(slots=True)
class _Moments:
    """Sums over the rows seen, in float64: of the inputs, and of their products."""

    n: int
    total: Array
    products: Array

    def add(self, x: Array) -> None:
        """Takes in x (in_features, rows)."""
        self.n += x.shape[1]
        self.total += x.sum(axis=1)
        self.products += x @ x.T

    def covariance(self) -> Array:
        mean = self.total / self.n
        return self.products / self.n - np.outer(mean, mean)


def _of_weights(node: Node) -> Spectrum:
    weight = _weight(node)
    out_features, in_features = weight.shape
    return Spectrum(
        node.name, out_features, in_features, *_principal(weight), np.zeros(in_features)
    )


def _of_outputs(network: Network, nodes: Sequence[Node], data: Data, rows: int) -> list[Spectrum]:
    moments = _input_moments(network, nodes, data, rows)
    found = []
    for node in nodes:
        weight, seen = _weight(node), moments[node.inputs[0]]
        has_bias = "bias" in node.layer.params()
        second = seen.covariance() if has_bias else seen.products / seen.n
        directions, energies = _principal(weight @ _root(second))
        sizes: tuple[int, int] = (weight.shape[0], weight.shape[1])
        mean = seen.total / seen.n if has_bias else np.zeros(weight.shape[1])
        found.append(Spectrum(node.name, *sizes, directions, energies, mean))
    return found


def _input_moments(
    network: Network, nodes: Sequence[Node], data: Data, rows: int
) -> dict[str, _Moments]:
    values = {node.inputs[0]: _weight(node).shape[1] for node in nodes}
    found = {v: _Moments(0, np.zeros(n), np.zeros((n, n))) for v, n in values.items()}
    chosen = np.sort(np.random.default_rng(data.seed).permutation(len(data.train))[:rows])
    workspace = network.workspace()
    for start in range(0, len(chosen), _BATCH_SIZE):
        some = data.train.take(chosen[start : start + _BATCH_SIZE])
        for value, x in network.activations(some.inputs, list(found), workspace).items():
            features = np.moveaxis(x, -2, 0).reshape(x.shape[-2], -1)  # steps count as rows
            found[value].add(features.astype(np.float64))
    return found


def _root(second: Array) -> Array:
    """A root R of a moment: R R^T is it. Tiny negative eigenvalues are rounding."""
    values, vectors = np.linalg.eigh(second)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)))


def _principal(matrix: Array) -> tuple[Array, Array]:
    """Left singular vectors, and the squares of the singular values."""
    directions, values, _ = np.linalg.svd(matrix, full_matrices=False)
    return directions, values**2


def _weight(node: Node) -> Array:
    return node.layer.params()["weight"].value.astype(np.float64)
