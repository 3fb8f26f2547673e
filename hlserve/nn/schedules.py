"""Learning-rate schedules: what part of the learning rate a step uses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.param import Array


class Schedule(Protocol):
    """What part of the optimizer's learning rate each step uses."""

    def __call__(self, step: int, n_steps: int) -> float:
        """The factor for step 0 <= ``step`` < ``n_steps``."""


@final
@dataclass(frozen=True, slots=True)
class Constant:
    """The whole learning rate in every step."""

    def __call__(self, step: int, n_steps: int) -> float:
        """See Schedule."""
        return 1.0


@final
@dataclass(frozen=True, slots=True)
class Cosine:
    """Half a cosine from 1 down to ``floor``, after a linear rise over the first steps.

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5, without restarts.

    Attributes:
        warm_up: part of all steps that the rise takes, 0 to 1.
        floor: what is left at the end, 0 to 1.
    """

    warm_up: float = 0.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        _require_shares("Cosine", warm_up=self.warm_up, floor=self.floor)

    def __call__(self, step: int, n_steps: int) -> float:
        """See Schedule."""
        rise = round(self.warm_up * n_steps)
        if step < rise:
            return (step + 1) / rise
        progress = (step - rise) / max(1, n_steps - rise)
        return _cosine(1.0, self.floor, progress)


@final
@dataclass(frozen=True, slots=True)
class Step:
    """The learning rate times ``factor`` once more after ``every`` steps.

    As torch.optim.lr_scheduler.StepLR, stepped with the optimizer.

    Attributes:
        every: steps between two changes; an epoch has ceil(rows / batch_size) of them.
        factor: 0 to 1.
    """

    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"Step: every is {self.every}, expected 1 step or more")
        _require_shares("Step", factor=self.factor)

    def __call__(self, step: int, n_steps: int) -> float:
        """See Schedule."""
        return float(self.factor ** (step // self.every))


@final
@dataclass(frozen=True, slots=True)
class OneCycle:
    """From ``start`` up to the whole learning rate, then down to ``end``, along half cosines.

    The optimizer's learning rate is the peak, and may be several times as high as one that is
    held. Source: Smith & Topin 2018, arXiv:1708.07120; the rate as in
    torch.optim.lr_scheduler.OneCycleLR of two phases. The momentum is not cycled.

    Attributes:
        warm_up: part of all steps that the rise takes, 0 to 1.
        start, end: factors of the first and the last step, 0 to 1; torch's div_factor of 25
            and final_div_factor of 1e4.
    """

    warm_up: float = 0.3
    start: float = 1 / 25
    end: float = 1 / 25e4

    def __post_init__(self) -> None:
        _require_shares("OneCycle", warm_up=self.warm_up, start=self.start, end=self.end)

    def __call__(self, step: int, n_steps: int) -> float:
        """See Schedule."""
        peak = self.warm_up * n_steps - 1
        if step <= peak:
            return _cosine(self.start, 1.0, step / peak if peak > 0 else 1.0)
        return _cosine(1.0, self.end, (step - peak) / (n_steps - 1 - peak))


@final
class Plateau:
    """The learning rate times ``factor`` whenever the loss has not fallen for a while.

    As torch.optim.lr_scheduler.ReduceLROnPlateau, told the loss after every epoch. An object
    serves one training run.

    Attributes:
        factor: 0 to 1.
        patience: epochs without a lower loss that are let pass; the next one lowers the rate.
        threshold: by which part of itself the loss must fall to count as lower.
        floor: below which the factor of the learning rate does not go.
    """

    def __init__(
        self,
        factor: float = 0.1,
        patience: int = 10,
        *,
        threshold: float = 1e-4,
        floor: float = 0.0,
    ) -> None:
        _require_shares("Plateau", factor=factor, threshold=threshold, floor=floor)
        if patience < 0:
            raise ConfigError(f"Plateau: patience is {patience}, expected 0 epochs or more")
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.floor = floor
        self._current = 1.0
        self._lowest = math.inf
        self._waited = 0

    def __call__(self, step: int, n_steps: int) -> float:
        """See Schedule."""
        return self._current

    def observe(self, loss: float) -> None:
        """Takes the validation loss of an epoch, or the training loss without validation."""
        enough = self.threshold * abs(self._lowest) if math.isfinite(self._lowest) else 0.0
        if loss < self._lowest - enough:
            self._lowest, self._waited = loss, 0
            return
        self._waited += 1
        if self._waited > self.patience:
            self._current = max(self.floor, self._current * self.factor)
            self._waited = 0

    def state(self) -> dict[str, Array]:
        """All that the next steps depend on, so that training can go on bit-equal."""
        return {
            "current": np.array(self._current),
            "lowest": np.array(self._lowest),
            "waited": np.array(self._waited),
        }

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Goes on from what ``state`` gave.

        Raises:
            ConfigError: it is not the state of a Plateau.
        """
        if state.keys() != {"current", "lowest", "waited"}:
            raise ConfigError(
                f"Plateau: the state holds {sorted(state)}, expected current, lowest and waited"
            )
        self._current = float(state["current"])
        self._lowest = float(state["lowest"])
        self._waited = int(state["waited"])


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress))


def _require_shares(schedule: str, **values: float) -> None:
    for name, value in values.items():
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"{schedule}: {name} is {value}, expected 0 to 1")
