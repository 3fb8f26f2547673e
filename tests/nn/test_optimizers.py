import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from hlserve.errors import ConfigError
from hlserve.nn.optimizers import BLOCK, FLUSH_BELOW, FLUSH_EVERY, SGD, AdamW, Optimizer
from hlserve.nn.param import Array
from hlserve.nn.schedules import Constant, Cosine

Step = Callable[[Array, Array, int, float], Array]  # value, grad, step from 1, rate -> new value


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


CASES: dict[str, tuple[Callable[[], Optimizer], Callable[[], Step]]] = {
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
}
by_case = pytest.mark.parametrize(("make", "make_naive"), CASES.values(), ids=CASES)


def gradient(value: Array, t: int) -> Array:
    """Of a badly scaled bowl, with a part that changes from step to step."""
    return value * np.linspace(0.01, 3.0, value.size) + math.sin(t)


@by_case
def test_many_steps_equal_the_naive_equations(
    make: Callable[[], Optimizer], make_naive: Callable[[], Step]
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
    make: Callable[[], Optimizer], make_naive: Callable[[], Step]
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
    make: Callable[[], Optimizer], make_naive: Callable[[], Step]
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
    make: Callable[[], Optimizer], make_naive: Callable[[], Step]
) -> None:
    optimizer = make()
    optimizer.load_state(make().state())
    value = np.ones(3)
    optimizer.step(value, np.ones(3))
    assert np.all(value < 1)


@pytest.mark.parametrize(
    ("optimizer", "moment"), [(SGD(0.1), "velocity"), (AdamW(0.1), "mean")], ids=["sgd", "adamw"]
)
def test_moments_of_dead_units_do_not_stay_denormal(optimizer: Optimizer, moment: str) -> None:
    value = np.ones(4, np.float32)
    optimizer.step(value, np.array([1e-22, 1e-22, 1.0, 0.0], np.float32))
    for _ in range(FLUSH_EVERY - 1):
        optimizer.step(value, np.zeros(4, np.float32))
    left = optimizer.state()[moment]
    assert left[0] == left[1] == 0.0
    assert left[2] > FLUSH_BELOW


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
        (lambda: Cosine(warm_up=1.5), "warm_up is 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


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
