"""Optimizers over flat vectors: one pass updates every parameter of a network, in place."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace

# The largest block whose value, gradient, moments and scratch stay in a core's L2 cache;
# 16k elements cost a third more (ufunc calls), whole vectors two thirds more (memory traffic).
BLOCK = 65_536

# Moments of a dead unit decay into denormal numbers and stay there, where every operation on
# them takes a slow path of the processor. What is flushed moves no parameter.
FLUSH_EVERY = 100
FLUSH_BELOW = 1e-25
# Of squares, whose roots still count where epsilon is tiny; far enough above the smallest normal
# float32, 1.2e-38, that what decays by 0.96 a step or slower is flushed ahead of it.
FLUSH_SQUARE_BELOW = 1e-36


class Optimizer(ABC):
    """Changes parameters along their gradient. An object serves one network.

    Attributes:
        learning_rate: size of a step before the schedule's factor.
    """

    learning_rate: float

    @abstractmethod
    def step(self, value: Array, grad: Array, *, rate_factor: float = 1.0) -> None:
        """Updates ``value`` in place; ``grad`` may be overwritten.

        Both are flat, contiguous and of one float type. ``rate_factor`` multiplies the
        learning rate.
        """

    @abstractmethod
    def state(self) -> dict[str, Array]:
        """Copies of all that the next step depends on, so that training can go on bit-equal."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Array]) -> None:
        """Goes on from what ``state`` gave.

        Raises:
            ConfigError: it is not this kind of optimizer's state.
        """


@final
class SGD(Optimizer):
    """Gradient descent with momentum, as torch.optim.SGD with dampening 0.

    Source: Sutskever et al. 2013, with the velocity not scaled by the learning rate. Weight
    decay is L2: it is added to the gradient.
    """

    def __init__(
        self,
        learning_rate: float = 0.01,
        *,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        _require("SGD", "learning_rate", learning_rate, low=0.0)
        _require("SGD", "momentum", momentum, low=0.0, below=1.0)
        _require("SGD", "weight_decay", weight_decay, low=0.0)
        if nesterov and momentum == 0:
            raise ConfigError("SGD: nesterov needs a momentum above 0")
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.nesterov = nesterov
        self.weight_decay = weight_decay
        self._steps = 0
        self._velocity: Array | None = None
        self._buffers = Workspace()

    def step(self, value: Array, grad: Array, *, rate_factor: float = 1.0) -> None:
        """See Optimizer."""
        velocity = self._velocity = _moment(self._velocity, value, "SGD")
        self._steps += 1
        rate = self.learning_rate * rate_factor
        scratch = self._buffers.empty("block", (min(BLOCK, value.size),), value.dtype)
        for block in _blocks(value.size):
            p, g, u = value[block], grad[block], velocity[block]
            t = scratch[: p.size]
            if self.weight_decay:
                g += np.multiply(p, self.weight_decay, out=t)
            u *= self.momentum
            u += g
            np.multiply(u, rate * (self.momentum if self.nesterov else 1.0), out=t)
            p -= t
            if self.nesterov:
                p -= np.multiply(g, rate, out=t)
            if self._steps % FLUSH_EVERY == 0:
                _flush(u, t)

    def state(self) -> dict[str, Array]:
        """See Optimizer."""
        return _copies({"steps": np.array(self._steps), "velocity": self._velocity})

    def load_state(self, state: Mapping[str, Array]) -> None:
        """See Optimizer."""
        moments = _moments_of(state, ("velocity",), "SGD")
        self._steps, self._velocity = int(state["steps"]), moments["velocity"]


@final
class AdamW(Optimizer):
    """Adam with decoupled weight decay, as torch.optim.AdamW (decay times learning rate).

    Source: Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2. The moments are held
    divided by (1 - beta), which saves a pass each and changes nothing else.
    """

    def __init__(
        self,
        learning_rate: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        _require("AdamW", "learning_rate", learning_rate, low=0.0)
        _require("AdamW", "weight_decay", weight_decay, low=0.0)
        for beta in betas:
            _require("AdamW", "betas", beta, low=0.0, below=1.0)
        if not epsilon > 0:
            raise ConfigError(f"AdamW: epsilon is {epsilon}, expected above 0")
        self.learning_rate = learning_rate
        self.betas = betas
        self.epsilon = epsilon
        self.weight_decay = weight_decay
        self._steps = 0
        self._mean: Array | None = None
        self._square: Array | None = None
        self._buffers = Workspace()

    def step(self, value: Array, grad: Array, *, rate_factor: float = 1.0) -> None:
        """See Optimizer."""
        mean = self._mean = _moment(self._mean, value, "AdamW")
        square = self._square = _moment(self._square, value, "AdamW")
        self._steps += 1
        beta1, beta2 = self.betas
        rate = self.learning_rate * rate_factor
        # sqrt(v / (1 - beta2^t)) + eps = root * (sqrt(v / (1 - beta2)) + eps / root)
        root = math.sqrt((1.0 - beta2) / (1.0 - beta2**self._steps))
        step_size = rate * (1.0 - beta1) / (1.0 - beta1**self._steps) / root
        scratch = self._buffers.empty("block", (min(BLOCK, value.size),), value.dtype)
        for block in _blocks(value.size):
            p, g, m, v = value[block], grad[block], mean[block], square[block]
            t = scratch[: p.size]
            m *= beta1
            m += g
            v *= beta2
            v += np.multiply(g, g, out=t)
            np.sqrt(v, out=t)
            t += self.epsilon / root
            np.divide(m, t, out=t)
            t *= step_size
            if self.weight_decay:
                p *= 1.0 - rate * self.weight_decay
            p -= t
            if self._steps % FLUSH_EVERY == 0:
                _flush(m, t)
                # Only where the mean is 0 already: over a lost square it could be a huge step.
                np.copyto(v, 0, where=(v < FLUSH_SQUARE_BELOW) & (m == 0))

    def state(self) -> dict[str, Array]:
        """See Optimizer."""
        steps = np.array(self._steps)
        return _copies({"steps": steps, "mean": self._mean, "square": self._square})

    def load_state(self, state: Mapping[str, Array]) -> None:
        """See Optimizer."""
        moments = _moments_of(state, ("mean", "square"), "AdamW")
        self._steps = int(state["steps"])
        self._mean, self._square = moments["mean"], moments["square"]


@final
class RMSprop(Optimizer):
    """Steps divided by the running root of the squared gradient, as torch.optim.RMSprop.

    Source: Tieleman & Hinton 2012, lecture 6.5; epsilon is added to the root, and momentum
    gathers the divided gradients. Weight decay is L2: it is added to the gradient. Torch's
    ``centered`` is left out.

    Attributes:
        alpha: what is kept of the running square each step.
    """

    def __init__(
        self,
        learning_rate: float = 0.01,
        *,
        alpha: float = 0.99,
        epsilon: float = 1e-8,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        _require("RMSprop", "learning_rate", learning_rate, low=0.0)
        _require("RMSprop", "alpha", alpha, low=0.0, below=1.0)
        _require("RMSprop", "momentum", momentum, low=0.0, below=1.0)
        _require("RMSprop", "weight_decay", weight_decay, low=0.0)
        if not epsilon > 0:
            raise ConfigError(f"RMSprop: epsilon is {epsilon}, expected above 0")
        self.learning_rate = learning_rate
        self.alpha = alpha
        self.epsilon = epsilon
        self.momentum = momentum
        self.weight_decay = weight_decay
        self._steps = 0
        self._square: Array | None = None
        self._velocity: Array | None = None
        self._buffers = Workspace()

    def step(self, value: Array, grad: Array, *, rate_factor: float = 1.0) -> None:
        """See Optimizer."""
        square = self._square = _moment(self._square, value, "RMSprop")
        if self.momentum:
            self._velocity = _moment(self._velocity, value, "RMSprop")
        self._steps += 1
        rate = self.learning_rate * rate_factor
        scratch = self._buffers.empty("block", (min(BLOCK, value.size),), value.dtype)
        for block in _blocks(value.size):
            p, g, v = value[block], grad[block], square[block]
            t = scratch[: p.size]
            if self.weight_decay:
                g += np.multiply(p, self.weight_decay, out=t)
            np.multiply(g, g, out=t)
            t *= 1.0 - self.alpha
            v *= self.alpha
            v += t
            np.sqrt(v, out=t)
            t += self.epsilon
            np.divide(g, t, out=t)
            is_flushing = self._steps % FLUSH_EVERY == 0
            if self._velocity is not None:
                u = self._velocity[block]
                u *= self.momentum
                u += t
                if is_flushing:
                    _flush(u, t)
                np.copyto(t, u)
            t *= rate
            p -= t
            if is_flushing:
                _flush(v, t, FLUSH_SQUARE_BELOW)

    def state(self) -> dict[str, Array]:
        """See Optimizer."""
        steps = np.array(self._steps)
        return _copies({"steps": steps, "square": self._square, "velocity": self._velocity})

    def load_state(self, state: Mapping[str, Array]) -> None:
        """See Optimizer."""
        names = ("square", "velocity") if self.momentum else ("square",)
        moments = _moments_of(state, names, "RMSprop")
        self._steps = int(state["steps"])
        self._square, self._velocity = moments["square"], moments.get("velocity")


def clip_norm(grad: Array, limit: float) -> float:
    """Shortens a gradient to the Euclidean norm ``limit`` in place; answers the norm before.

    As torch.nn.utils.clip_grad_norm_, without the 1e-6 that it adds to the norm. A gradient
    that is NaN or infinite stays as it is, for whoever looks for what diverged.

    Shapes: grad (parameters,), flat and contiguous.

    Raises:
        ConfigError: ``limit`` is not above 0.
    """
    if not limit > 0:
        raise ConfigError(f"clip_norm: limit is {limit}, expected above 0")
    with np.errstate(over="ignore"):
        norm = math.sqrt(sum(_sum_of_squares(grad[block]) for block in _blocks(grad.size)))
    if math.isfinite(norm) and norm > limit:
        grad *= limit / norm
    return norm


def _sum_of_squares(block: Array) -> float:
    total = float(np.dot(block, block))
    if math.isfinite(total):
        return total
    # float32 overflows from 1.8e19 on; einsum casts a few thousand elements at a time.
    return float(np.einsum("i,i->", block, block, dtype=np.float64))


def _blocks(size: int) -> Iterator[slice]:
    for start in range(0, size, BLOCK):
        yield slice(start, min(start + BLOCK, size))


def _moment(moment: Array | None, value: Array, optimizer: str) -> Array:
    if moment is None:
        return np.zeros_like(value)
    if moment.shape != value.shape or moment.dtype != value.dtype:
        raise ConfigError(
            f"this {optimizer} has trained {moment.size} {moment.dtype} parameters and now gets "
            f"{value.size} of {value.dtype}; make a fresh one for every network"
        )
    return moment


def _flush(moment: Array, scratch: Array, below: float = FLUSH_BELOW) -> None:
    np.abs(moment, out=scratch)
    np.copyto(moment, 0, where=scratch < below)


def _copies(state: Mapping[str, Array | None]) -> dict[str, Array]:
    return {name: array.copy() for name, array in state.items() if array is not None}


def _moments_of(
    state: Mapping[str, Array], names: tuple[str, ...], optimizer: str
) -> dict[str, Array | None]:
    # Before its first step an optimizer has a count and no moments yet.
    if state.keys() not in ({"steps"}, {"steps", *names}):
        raise ConfigError(
            f"{optimizer}: the state holds {sorted(state)}, expected {sorted(['steps', *names])}"
        )
    return {name: np.array(state[name]) if name in state else None for name in names}


def _require(
    optimizer: str, name: str, value: float, *, low: float, below: float = math.inf
) -> None:
    if not low <= value < below:
        raise ConfigError(f"{optimizer}: {name} is {value}, expected {low} <= {name} < {below}")
