"""What is searched: from a few numbers between fixed bounds to a network that is small enough.

Widths are not drawn one by one. A trial draws how large a network is, as a share of what is
allowed, and its shape; the widest network of that shape and size is then found by counting.
So every trial keeps the bound, and small networks are tried as often as large ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from hlserve.errors import ConfigError
from hlserve.nn.layer import Shape
from hlserve.nn.spec_options import ACTIVATIONS, SpecOptions

Family = Literal["mlp", "cnn"]
Cost = Callable[[str], tuple[int, int]]

SMALLEST, WIDEST = 4, 8192  # units of a layer
DEEPEST = 4  # hidden layers of a perceptron
MOST_STAGES = 3  # convolutions, each with a pooling that halves the image
LOWEST_DENSE, HIGHEST_DENSE = 0.5, 8.0  # units of the dense layer a channel of the last stage
HIGHEST_GROWTH = 2.0  # of channels from stage to stage
LOWEST_TAPER = 0.125  # of the last hidden layer's width to the first's
SMALLEST_SIDE = 4  # of what the last pooling reads, pixels
LEARNING_RATES = (3e-4, 3e-2)  # AdamW's; the trainer's default of 3e-3 lies in the middle
WEIGHT_DECAYS = (1e-4, 1e-1)
DROPOUT_STEP, HIGHEST_DROPOUT = 0.1, 0.5

# As large as is allowed, with the trainer's defaults: what must be beaten is tried first.
FIRST_TRIAL = {
    "size": 1.0,
    "activation": "relu",
    "dropout": 0.0,
    "learning_rate": 3e-3,
    "weight_decay": 1e-2,
}


class Draws(Protocol):
    """The part of an Optuna trial that draws."""

    def suggest_categorical(self, name: str, choices: tuple[str, ...]) -> str:
        """One of the words."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number, both ends included."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number, both ends included."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A network that is to be trained, and how."""

    spec: str
    learning_rate: float
    weight_decay: float


@dataclass(frozen=True, slots=True)
class Space:
    """Every network that may be tried.

    Attributes:
        families: what kinds of network.
        max_parameters: the bound that each of them keeps.
        cost: parameters and multiply-accumulates of the network that a spec stands for.
        depths: the fewest and the most hidden layers, or stages, with which the narrowest
            network keeps the bound; by family.
    """

    families: tuple[Family, ...]
    max_parameters: int
    cost: Cost
    depths: dict[Family, tuple[int, int]]

    def draw(self, trial: Draws) -> Candidate:
        """A candidate of at most ``max_parameters``."""
        family = self.families[0]
        if len(self.families) > 1:
            drawn = trial.suggest_categorical("family", self.families)
            family = next(known for known in self.families if known == drawn)
        spec_of = self._mlp(trial) if family == "mlp" else self._cnn(trial)
        size = trial.suggest_float("size", 0.0, 1.0)
        options = SpecOptions(
            trial.suggest_categorical("activation", ACTIVATIONS),
            round(trial.suggest_float("dropout", 0.0, HIGHEST_DROPOUT, step=DROPOUT_STEP), 1),
        )
        return Candidate(
            f"{self._widest(spec_of, size)}{options}",
            _short(trial.suggest_float("learning_rate", *LEARNING_RATES, log=True)),
            _short(trial.suggest_float("weight_decay", *WEIGHT_DECAYS, log=True)),
        )

    def _mlp(self, trial: Draws) -> Callable[[int], str]:
        depth = trial.suggest_int("depth", *self.depths["mlp"])
        taper = trial.suggest_float("taper", LOWEST_TAPER, 1.0, log=True)
        return lambda width: mlp_spec(width, depth, taper)

    def _cnn(self, trial: Draws) -> Callable[[int], str]:
        stages = trial.suggest_int("stages", *self.depths["cnn"])
        growth = trial.suggest_float("growth", 1.0, HIGHEST_GROWTH)
        dense = trial.suggest_float("dense", LOWEST_DENSE, HIGHEST_DENSE, log=True)
        if self.cost(cnn_spec(SMALLEST, stages, growth, dense))[0] > self.max_parameters:
            dense = LOWEST_DENSE
        return lambda channels: cnn_spec(channels, stages, growth, dense)

    def _widest(self, spec_of: Callable[[int], str], size: float) -> str:
        """The widest network of a shape whose parameters are within a share of the bound.

        ``size`` 0 is the smallest of the shape, 1 the bound, and between them it is their
        logarithm that grows evenly.
        """
        smallest = self.cost(spec_of(SMALLEST))[0]
        allowed = smallest * (self.max_parameters / smallest) ** size
        fits, too_wide = SMALLEST, 2 * SMALLEST
        while too_wide < WIDEST and self.cost(spec_of(too_wide))[0] <= allowed:
            fits, too_wide = too_wide, 2 * too_wide
        while too_wide - fits > 1:
            middle = (fits + too_wide) // 2
            if self.cost(spec_of(middle))[0] <= allowed:
                fits = middle
            else:
                too_wide = middle
        return spec_of(fits)


def make_space(
    family: Literal["mlp", "cnn", "auto"], input_shape: Shape, bound: int, cost: Cost
) -> Space:
    """The space for rows of this shape; ``auto`` tries convolutions where rows are images.

    Args:
        family: see ``Settings``.
        input_shape: of one row.
        bound: the parameters that no network has more of.
        cost: see Space.

    Raises:
        ConfigError: not even the smallest network keeps the bound, or the rows are no images.
    """
    stages = _most_stages(input_shape)
    if family == "cnn" and not stages:
        raise ConfigError(
            f"--family cnn takes images (channels, height, width) of at least {SMALLEST_SIDE}x"
            f"{SMALLEST_SIDE}, the rows have shape {input_shape}; take --family mlp"
        )
    most: dict[Family, int] = {"mlp": DEEPEST} if family != "cnn" else {}
    if family != "mlp" and stages:
        most["cnn"] = stages
    costs = {
        name: {n: cost(_smallest(name, n))[0] for n in range(1, deepest + 1)}
        for name, deepest in most.items()
    }
    depths = {
        name: _run_to_the_last([n for n, parameters in by_depth.items() if parameters <= bound])
        for name, by_depth in costs.items()
        if min(by_depth.values()) <= bound
    }
    if not depths:
        fewest, name, n = min((p, name, n) for name, by in costs.items() for n, p in by.items())
        raise ConfigError(
            f"--max-params {bound:,}: the smallest network that is tried is "
            f"{_smallest(name, n)} with {fewest:,} parameters"
        )
    return Space(tuple(depths), bound, cost, depths)


def mlp_spec(width: int, depth: int, taper: float) -> str:
    """Hidden layers from ``width`` down to ``taper`` times that, each by the same factor."""
    widths = [width * taper ** (layer / max(1, depth - 1)) for layer in range(depth)]
    return "mlp:" + ",".join(str(max(SMALLEST, round(w))) for w in widths)


def cnn_spec(channels: int, stages: int, growth: float, dense: float) -> str:
    """Convolutions of ``growth`` times the channels of the one before, and a dense layer.

    ``dense`` is its width, in channels of the last convolution.
    """
    widths = [round(channels * growth**stage) for stage in range(stages)]
    return f"cnn:{','.join(map(str, widths))}/{max(SMALLEST, round(dense * widths[-1]))}"


def _run_to_the_last(depths: list[int]) -> tuple[int, int]:
    """The ends of the longest run of depths, without a gap, that ends with the last."""
    lowest = highest = depths[-1]
    while lowest - 1 in depths:
        lowest -= 1
    return lowest, highest


def _smallest(family: Family, depth: int) -> str:
    """The narrowest network of this depth, in the shape that then has most parameters."""
    if family == "mlp":
        return mlp_spec(SMALLEST, depth, 1.0)
    return cnn_spec(SMALLEST, depth, HIGHEST_GROWTH, LOWEST_DENSE)


def _most_stages(shape: Shape) -> int:
    if len(shape) != 3:
        return 0
    halvings = int(math.log2(min(shape[1:]) / SMALLEST_SIDE)) + 1 if min(shape[1:]) >= 4 else 0
    return min(MOST_STAGES, halvings)


def _short(value: float) -> float:
    """Three digits, so that a command line repeats the number exactly."""
    return float(f"{value:.3g}")
