"""Low rank: W (out, in) becomes two layers of rank r, where that makes it smaller."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np

from compress.factorization.spectrum import Spectrum, spectra
from compress.technique import Compressed, Data, Technique, require_floats
from hlserve.errors import CompressionError, ConfigError
from hlserve.nn.layers import Linear
from hlserve.nn.network import Network, Node
from hlserve.nn.param import Array

DOWN, UP = "down", "up"  # what the two layers are called behind the old name and a dot
ROWS = 4096  # looked at; the directions hardly turn beyond
_WORTH = 2  # a layer counts as large where the smallest rank makes it smaller by this


@final
@dataclass(frozen=True, slots=True)
class FactorizeLinear(Technique):
    """y = W x + b becomes y = up (down x) + b, with r numbers in between.

    The r strongest directions U of what the layer puts out are kept, W' = U U^T W: of all
    matrices of rank r that with the least squared error of the outputs on training rows (Chen
    et al. 2021, DRONE, NeurIPS; Eckart & Young 1936), or of the weights. Beyond the paper, the
    bias takes the mean of what is lost. Each direction's size is shared between the two layers,
    so that both learn alike. ``fc`` becomes ``fc.down``, which has no bias, and ``fc.up``. It
    is a poorer network until it is fine-tuned. The numbers in between are units that
    PruneChannels can thin out.

    Attributes:
        ranks: of every layer that ``factorizable`` names, in that order; a rank that saves
            nothing, such as the layer's width, leaves it whole.
        energy: instead, the share of the outputs' variance that the ranks keep, 0 to 1.
        round_to: where they follow the energy, ranks become multiples of this.
        is_weighted: whether rows decide what matters, or the weights alone.
    """

    ranks: tuple[int, ...] | None = None
    energy: float = 0.95
    round_to: int = 8
    is_weighted: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.energy <= 1:
            raise ConfigError(f"FactorizeLinear: energy is {self.energy}, expected 0 < energy <= 1")
        if self.round_to < 1 or any(rank < 1 for rank in self.ranks or ()):
            raise ConfigError(
                f"FactorizeLinear: round_to (={self.round_to}) and ranks (={self.ranks}) "
                "must be at least 1"
            )

    def requires(self, network: Network, data: Data) -> None:
        """See Technique."""
        require_floats("FactorizeLinear", network)
        layers = factorizable(network)
        if self.ranks is not None and len(self.ranks) != len(layers):
            raise CompressionError(
                f"FactorizeLinear: {len(self.ranks)} ranks for {len(layers)} layers; the "
                f"network's large Linear layers are {[name for name, _, _ in layers]}"
            )
        if self.is_weighted and len(data.train) == 0:
            raise CompressionError("FactorizeLinear needs rows; or set is_weighted to false")

    def transform(self, network: Network, data: Data) -> Compressed:
        """See Technique."""
        result = network.copy()
        nodes = [result.node(name) for name, _, _ in factorizable(result)]
        found = spectra(result, nodes, data if self.is_weighted else None, rows=ROWS)
        ranks = self.ranks or [self._rank(spectrum) for spectrum in found]
        for spectrum, rank in zip(found, ranks, strict=True):
            if saves(rank, spectrum.out_features, spectrum.in_features):
                result = _split(result, result.node(spectrum.name), spectrum, rank)
        return Compressed(result)

    def _rank(self, spectrum: Spectrum) -> int:
        """The smallest multiple of ``round_to`` that keeps the energy."""
        allowed = np.sqrt(1 - self.energy)
        rank = self.round_to
        while rank < len(spectrum.energies) and spectrum.relative_error(rank) > allowed:
            rank += self.round_to
        return rank


def saves(rank: int, out_features: int, in_features: int) -> bool:
    """Whether two layers of that rank hold fewer weights than the one."""
    return rank * (in_features + out_features) < in_features * out_features


def factorizable(network: Network, round_to: int = 8) -> list[tuple[str, int, int]]:
    """The Linear nodes that are worth it, in graph order: (name, out_features, in_features).

    Those that rank ``round_to`` would make less than half as large: a network's closing layer
    of a few classes is none.
    """
    found = []
    for node in network.nodes:
        if isinstance(node.layer, Linear):
            out, inner = node.layer.out_features, node.layer.in_features
            if saves(_WORTH * round_to, out, inner):
                found.append((node.name, out, inner))
    return found


# ----- below


def _split(network: Network, node: Node, spectrum: Spectrum, rank: int) -> Network:
    """The network with two nodes in place of one; what read the one reads the second."""
    first, second, bias = _factors(node, spectrum, rank)
    down = Node(f"{node.name}.{DOWN}", _layer(first), node.inputs)
    up = Node(f"{node.name}.{UP}", _layer(second, bias), (down.name,))

    def renamed(name: str) -> str:
        return up.name if name == node.name else name

    nodes: list[Node] = []
    for other in network.nodes:
        inputs = tuple(renamed(name) for name in other.inputs)
        nodes += [down, up] if other is node else [replace(other, inputs=inputs)]
    return Network(
        network.inputs,
        nodes,
        {output: renamed(name) for output, name in network.outputs.items()},
        task=network.task,
        class_labels=network.class_labels,
    )


def _factors(node: Node, spectrum: Spectrum, rank: int) -> tuple[Array, Array, Array | None]:
    """Weights down (rank, in) and up (out, rank), and the bias, or None where there is none."""
    params = node.layer.params()
    weight = params["weight"].value.astype(np.float64)
    up = spectrum.directions[:, :rank]
    down = up.T @ weight
    bias = None
    if "bias" in params:
        lost = (weight - up @ down) @ spectrum.mean
        bias = params["bias"].value.astype(np.float64) + lost
    sizes = np.linalg.norm(down, axis=1)
    share = np.sqrt(np.where(sizes > 0, sizes, 1.0))
    return down / share[:, None], up * share, bias


def _layer(weight: Array, bias: Array | None = None) -> Linear:
    out_features, in_features = weight.shape
    arrays = {"weight": _float32(weight)}
    if bias is not None:
        arrays["bias"] = _float32(bias)
    return Linear(in_features, out_features, bias is not None).with_arrays(arrays)


def _float32(array: Array) -> Array:
    return np.ascontiguousarray(array, np.float32)
