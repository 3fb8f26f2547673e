import math
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from hlserve.errors import ConfigError
from hlserve.nn.optimizers import (
    BLOCK,
    FLUSH_BELOW,
    FLUSH_EVERY,
    FLUSH_SQUARE_BELOW,
    SGD,
    AdamW,
    Optimizer,
    RMSprop,
    clip_norm,
)
from hlserve.nn.param import Array
from hlserve.nn.schedules import Constant, Cosine, OneCycle, Plateau, Schedule, Step

Equations = Callable[
    [Array, Array, int, float], Array
]  # value, grad, step from 1, rate -> new value


@dataclass
class NaiveSGD:
    """Sutskever et al. 2013 as torch.optim.SGD documents it, one line an equation."""

    momentum: float
    nesterov: bool
    weight_decay: float
    velocity: Array | float = 0.0

    def __call__(self, value: Array, grad: Array, t: int, rate: float) -> Array:
        g = grad + self.weight_decay * value
        self.velocity = self.momentum * self.velocity + g
        return value - rate * (
            g + self.momentum * self.velocity if self.nesterov else self.velocity
        )


@dataclass
class NaiveAdamW:
    """Loshchilov & Hutter 2019, algorithm 2, decay times learning rate as in torch."""

    weight_decay: float
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    m: Array | float = 0.0
    v: Array | float = 0.0

    def __call__(self, value: Array, grad: Array, t: int, rate: float) -> Array:
        b1, b2 = self.betas
        value = value * (1 - rate * self.weight_decay)
        self.m = b1 * self.m + (1 - b1) * grad
        self.v = b2 * self.v + (1 - b2) * grad**2
        m_hat, v_hat = self.m / (1 - b1**t), self.v / (1 - b2**t)
        return value - rate * m_hat / (np.sqrt(v_hat) + self.epsilon)


@dataclass
class NaiveRMSprop:
    """Tieleman & Hinton 2012 as torch.optim.RMSprop documents it."""

    alpha: float = 0.99
    epsilon: float = 1e-8
    momentum: float = 0.0
    weight_decay: float = 0.0
    square: Array | float = 0.0
    buffer: Array | float = 0.0

    def __call__(self, value: Array, grad: Array, t: int, rate: float) -> Array:
        g = grad + self.weight_decay * value
        self.square = self.alpha * self.square + (1 - self.alpha) * g**2
        self.buffer = self.momentum * self.buffer + g / (np.sqrt(self.square) + self.epsilon)
        return value - rate * self.buffer


CASES: dict[str, tuple[Callable[[], Optimizer], Callable[[], Equations]]] = {
    "sgd": (lambda: SGD(0.1, momentum=0.0), lambda: NaiveSGD(0.0, False, 0.0)),
    "momentum": (lambda: SGD(0.1), lambda: NaiveSGD(0.9, False, 0.0)),
    "nesterov": (
        lambda: SGD(0.1, nesterov=True, weight_decay=0.03),
        lambda: NaiveSGD(0.9, True, 0.03),
    ),
    "sgd decay": (lambda: SGD(0.1, weight_decay=0.2), lambda: NaiveSGD(0.9, False, 0.2)),
    "adam": (lambda: AdamW(0.1, weight_decay=0.0), lambda: NaiveAdamW(0.0)),
    "adamw": (lambda: AdamW(0.1, weight_decay=0.3), lambda: NaiveAdamW(0.3)),
    "adamw settings": (
        lambda: AdamW(0.1, betas=(0.5, 0.7), epsilon=1e-2, weight_decay=0.1),
        lambda: NaiveAdamW(0.1, (0.5, 0.7), 1e-2),
    ),
    "rmsprop": (lambda: RMSprop(0.01), NaiveRMSprop),
    "rmsprop settings": (
        lambda: RMSprop(0.1, alpha=0.8, epsilon=1e-2, momentum=0.7, weight_decay=0.1),
        lambda: NaiveRMSprop(0.8, 1e-2, 0.7, 0.1),
    ),
}
by_case = pytest.mark.parametrize(("make", "make_naive"), CASES.values(), ids=CASES)


def gradient(value: Array, t: int) -> Array:
    """Of a badly scaled bowl, with a part that changes from step to step."""
    return value * np.linspace(0.01, 3.0, value.size) + math.sin(t)


@by_case
def test_many_steps_equal_the_naive_equations(
    make: Callable[[], Optimizer], make_naive: Callable[[], Equations]
) -> None:
    optimizer, naive = make(), make_naive()
    value = np.random.default_rng(0).normal(size=40)
    expected = value.copy()
    for t in range(1, 251):
        factor = 1.0 / t
        optimizer.step(value, gradient(value, t), rate_factor=factor)
        expected = naive(expected, gradient(expected, t), t, optimizer.learning_rate * factor)
    # The same equations in another order; float64 rounding of 250 steps.
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)


@by_case
def test_blocks_leave_no_seam(
    make: Callable[[], Optimizer], make_naive: Callable[[], Equations]
) -> None:
    rng = np.random.default_rng(0)
    value = rng.normal(size=BLOCK + 3).astype(np.float32)
    grads = [rng.normal(size=value.size).astype(np.float32) for _ in range(2)]
    tail, whole, alone = value[-5:].copy(), make(), make()
    for grad in grads:
        alone.step(tail, grad[-5:].copy())
        whole.step(value, grad.copy())
    # Vector and scalar code round fused operations alike up to the last bit.
    np.testing.assert_allclose(value[-5:], tail, rtol=1e-6)


@by_case
def test_loaded_state_goes_on_bit_equal(
    make: Callable[[], Optimizer], make_naive: Callable[[], Equations]
) -> None:
    def run(optimizer: Optimizer, value: Array, steps: range) -> Array:
        for t in steps:
            optimizer.step(value, gradient(value, t).astype(np.float32))
        return value

    start = np.random.default_rng(0).normal(size=30).astype(np.float32)
    through = run(make(), start.copy(), range(1, 21))
    first, second = make(), make()
    halfway = run(first, start.copy(), range(1, 11))
    second.load_state(first.state())
    run(first, halfway.copy(), range(11, 13))  # state() gave copies: this changes nothing
    np.testing.assert_array_equal(run(second, halfway, range(11, 21)), through)


@by_case
def test_state_before_the_first_step_loads(
    make: Callable[[], Optimizer], make_naive: Callable[[], Equations]
) -> None:
    optimizer = make()
    optimizer.load_state(make().state())
    value = np.ones(3)
    optimizer.step(value, np.ones(3))
    assert np.all(value < 1)


@pytest.mark.parametrize(
    ("optimizer", "moment"),
    [(SGD(0.1), "velocity"), (AdamW(0.1), "mean")],
    ids=["sgd", "adamw"],
)
def test_moments_of_dead_units_do_not_stay_denormal(optimizer: Optimizer, moment: str) -> None:
    value = np.ones(4, np.float32)
    optimizer.step(value, np.array([1e-22, 1e-22, 1.0, 0.0], np.float32))
    for _ in range(FLUSH_EVERY - 1):
        optimizer.step(value, np.zeros(4, np.float32))
    left = optimizer.state()[moment]
    assert left[0] == left[1] == 0.0
    assert left[2] > FLUSH_BELOW


def test_squares_of_dead_units_do_not_stay_denormal() -> None:
    optimizer, value = RMSprop(0.1, alpha=0.5, momentum=0.5), np.ones(3, np.float32)
    optimizer.step(value, np.array([1e-15, 1e10, 0.0], np.float32))
    for _ in range(FLUSH_EVERY - 1):
        optimizer.step(value, np.zeros(3, np.float32))
    square = optimizer.state()["square"]
    assert square[0] == square[2] == 0.0  # 1e-30 in the first step, halved ninety-nine times
    assert square[1] > FLUSH_SQUARE_BELOW
    assert optimizer.state()["velocity"][0] == 0.0


def test_squares_of_dead_units_are_flushed_by_adamw_where_the_mean_is_gone() -> None:
    optimizer, value = AdamW(0.1, betas=(0.5, 0.8), epsilon=1e-30), np.ones(4, np.float32)
    optimizer.step(value, np.array([1e-15, 1e10, 0.0, 1e-15], np.float32))
    for _ in range(FLUSH_EVERY - 2):
        optimizer.step(value, np.zeros(4, np.float32))
    before = value.copy()
    optimizer.step(value, np.array([0, 0, 0, 1e-20], np.float32))
    state = optimizer.state()
    assert state["square"][0] == state["square"][2] == 0.0  # 1e-30 came to 3e-40
    assert state["square"][1] > FLUSH_SQUARE_BELOW
    # The last one lives: over a square of 0 its mean would be a step of 1e10 in the next step.
    assert 0.0 < state["square"][3] < FLUSH_SQUARE_BELOW
    optimizer.step(value, np.zeros(4, np.float32))
    assert np.abs(value - before).max() < 1.0


def test_an_optimizer_refuses_a_second_network() -> None:
    optimizer = AdamW()
    optimizer.step(np.zeros(3, np.float32), np.zeros(3, np.float32))
    with pytest.raises(ConfigError, match="trained 3 float32 parameters and now gets 4"):
        optimizer.step(np.zeros(4, np.float32), np.zeros(4, np.float32))


def test_state_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected \['mean', 'square', 'steps'\]"):
        AdamW().load_state({"steps": np.array(1), "velocity": np.zeros(3)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(-1.0), "learning_rate is -1.0"),
        (lambda: SGD(0.1, momentum=1.0), "momentum is 1.0"),
        (lambda: SGD(0.1, momentum=0.0, nesterov=True), "nesterov needs a momentum"),
        (lambda: AdamW(math.nan), "learning_rate is nan"),
        (lambda: AdamW(betas=(0.9, 1.0)), "betas is 1.0"),
        (lambda: AdamW(epsilon=0.0), "epsilon is 0.0"),
        (lambda: AdamW(weight_decay=-0.1), "weight_decay is -0.1"),
        (lambda: RMSprop(alpha=1.0), "alpha is 1.0"),
        (lambda: RMSprop(momentum=-0.1), "momentum is -0.1"),
        (lambda: RMSprop(epsilon=0.0), "epsilon is 0.0"),
        (lambda: clip_norm(np.ones(2), 0.0), "limit is 0.0"),
        (lambda: Cosine(warm_up=1.5), "warm_up is 1.5"),
        (lambda: Step(0), "every is 0"),
        (lambda: Step(3, 2.0), "factor is 2.0"),
        (lambda: OneCycle(start=-0.1), "start is -0.1"),
        (lambda: Plateau(factor=1.1), "factor is 1.1"),
        (lambda: Plateau(patience=-1), "patience is -1"),
        (lambda: Plateau().load_state({}), r"the state holds \[\]"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


# ----- clipping


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_long_gradient_is_shortened_to_the_limit_in_place(dtype: type) -> None:
    grad = np.random.default_rng(0).normal(size=2 * BLOCK + 7).astype(dtype)
    before = grad.copy()
    norm = np.linalg.norm(before.astype(np.float64))
    assert clip_norm(grad, 2.0) == pytest.approx(norm, rel=1e-5)  # float32 sums a block
    assert np.linalg.norm(grad.astype(np.float64)) == pytest.approx(2.0, rel=1e-5)
    np.testing.assert_allclose(grad * (norm / 2.0), before, rtol=1e-5)


def test_a_short_gradient_stays_as_it_is() -> None:
    grad = np.array([3.0, 4.0])
    assert clip_norm(grad, 5.0) == 5.0
    np.testing.assert_array_equal(grad, [3.0, 4.0])
    assert clip_norm(np.zeros(3), 1.0) == 0.0


def test_clipping_stands_squares_that_overflow_float32() -> None:
    grad = np.full(4, 1e25, np.float32)
    assert clip_norm(grad, 1.0) == pytest.approx(2e25, rel=1e-6)
    np.testing.assert_allclose(grad, 0.5, rtol=1e-6)  # float32


def test_a_gradient_that_is_not_finite_is_left_to_be_found() -> None:
    for bad in (np.nan, np.inf):
        grad = np.array([1.0, bad], np.float32)
        assert not math.isfinite(clip_norm(grad, 0.5))
        np.testing.assert_array_equal(grad, [1.0, bad])


def test_clipping_allocates_nothing_large() -> None:
    grad = np.ones(4 * BLOCK, np.float32)
    tracemalloc.start()
    try:
        clip_norm(grad, 1.0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 1024  # the gradient is 1 MB


# ----- schedules


def test_cosine_falls_from_one_to_its_floor() -> None:
    factors = [Cosine(floor=0.1)(step, 101) for step in range(101)]
    assert factors[0] == 1.0
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == pytest.approx(0.1, abs=1e-3)


def test_warm_up_rises_linearly_and_meets_the_cosine() -> None:
    factors = [Cosine(warm_up=0.1)(step, 100) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert factors[10] == 1.0
    assert Cosine(warm_up=1.0)(99, 100) == 1.0


def test_constant_is_constant() -> None:
    assert {Constant()(step, 10) for step in range(10)} == {1.0}


@pytest.mark.parametrize("n_steps", [1, 2, 3, 10, 997])
@pytest.mark.parametrize(
    "schedule",
    [
        Constant(),
        Cosine(0.1),
        Step(3),
        OneCycle(),
        OneCycle(warm_up=0.0),
        OneCycle(warm_up=1.0),
        Plateau(),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_factors_lie_between_nothing_and_the_whole_rate(schedule: Schedule, n_steps: int) -> None:
    assert all(0.0 <= schedule(step, n_steps) <= 1.0 for step in range(n_steps))


def test_step_falls_by_its_factor_each_time() -> None:
    factors = [Step(every=3, factor=0.5)(step, 8) for step in range(8)]
    assert factors == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_one_cycle_rises_to_the_whole_rate_and_falls_to_its_end() -> None:
    factors = [OneCycle(warm_up=0.3, start=0.1, end=0.01)(step, 101) for step in range(101)]
    peak = factors.index(max(factors))
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1.0, abs=1e-3)
    assert peak == pytest.approx(29, abs=1)
    assert factors[-1] == pytest.approx(0.01)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_plateau_waits_for_its_patience_and_then_lowers_the_rate() -> None:
    plateau = Plateau(factor=0.5, patience=1, floor=0.3)
    seen = []
    for loss in (1.0, 0.9, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95):
        plateau.observe(loss)
        seen.append(plateau(0, 100))
    assert seen == [1.0, 1.0, 1.0, 0.5, 0.5, 0.3, 0.3, 0.3]


def test_plateau_takes_losses_below_zero() -> None:
    plateau = Plateau(factor=0.5, patience=0)
    for loss in (-1.0, -1.0):
        plateau.observe(loss)
    assert plateau(0, 1) == 0.5


def test_a_plateau_goes_on_from_its_state() -> None:
    losses = [1.0, 0.9, 1.0, 1.0, 0.8, 0.9, 0.9, 0.9, 0.9]
    through, first, second = (Plateau(0.5, patience=1) for _ in range(3))
    for loss in losses[:4]:
        first.observe(loss)
    second.load_state(first.state())
    for loss in losses:
        through.observe(loss)
    for loss in losses[4:]:
        second.observe(loss)
    assert second.state() == through.state()
    assert second(0, 1) == through(0, 1) < 1.0
