"""Our optimizers, clipping and schedules against torch.optim, step for step."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hlserve.nn.optimizers import BLOCK, SGD, AdamW, Optimizer, RMSprop, clip_norm
from hlserve.nn.schedules import OneCycle, Plateau, Schedule, Step

torch = pytest.importorskip("torch")

CASES: dict[str, tuple[Callable[[], Optimizer], Callable[[list[Any]], Any]]] = {
    "sgd": (
        lambda: SGD(0.05, momentum=0.0),
        lambda p: torch.optim.SGD(p, lr=0.05),
    ),
    "momentum and decay": (
        lambda: SGD(0.05, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
    ),
    "nesterov": (
        lambda: SGD(0.05, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    ),
    "adamw": (
        lambda: AdamW(1e-3, weight_decay=0.01),
        lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.01),
    ),
    "adamw settings": (
        lambda: AdamW(1e-2, betas=(0.8, 0.95), epsilon=1e-4, weight_decay=0.5),
        lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.5),
    ),
    "rmsprop": (
        lambda: RMSprop(1e-3),
        lambda p: torch.optim.RMSprop(p, lr=1e-3),
    ),
    "rmsprop settings": (
        lambda: RMSprop(1e-3, alpha=0.9, epsilon=1e-4, momentum=0.8, weight_decay=0.1),
        lambda p: torch.optim.RMSprop(
            p, lr=1e-3, alpha=0.9, eps=1e-4, momentum=0.8, weight_decay=0.1
        ),
    ),
}


# float64 shows the same equations; float32 the same within its rounding over 300 steps.
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-9), (np.float32, 1e-4)])
@pytest.mark.parametrize(("make", "make_torch"), CASES.values(), ids=CASES)
def test_steps_equal_torch(
    make: Callable[[], Optimizer],
    make_torch: Callable[[list[Any]], Any],
    dtype: type,
    rtol: float,
) -> None:
    rng = np.random.default_rng(0)
    value = rng.normal(size=200).astype(dtype)
    theirs = torch.nn.Parameter(torch.tensor(value))
    optimizer, reference = make(), make_torch([theirs])
    for _ in range(300):
        grad = (rng.normal(size=200) * np.logspace(-6, 2, 200)).astype(dtype)
        theirs.grad = torch.tensor(grad)
        reference.step()
        optimizer.step(value, grad.copy())
    np.testing.assert_allclose(value, theirs.detach().numpy(), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("limit", [1e-3, 1.0, 1e6])
def test_clipping_equals_torchs(limit: float) -> None:
    grad = np.random.default_rng(0).normal(size=BLOCK + 10)
    theirs = torch.nn.Parameter(torch.zeros(grad.size, dtype=torch.float64))
    theirs.grad = torch.tensor(grad)
    expected = torch.nn.utils.clip_grad_norm_([theirs], limit)
    assert clip_norm(grad, limit) == pytest.approx(expected.item(), rel=1e-12)  # float64 sums
    # Torch divides by the norm and 1e-6, four billionths of this norm of 256.
    np.testing.assert_allclose(grad, theirs.grad.numpy(), rtol=1e-8)


def rates(make: Callable[[Any], Any], n_steps: int, *, base: float) -> list[float]:
    """The rate of each step as torch's scheduler sets it, as a share of ``base``."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    scheduler = make(optimizer)
    found = []
    for _ in range(n_steps):
        found.append(optimizer.param_groups[0]["lr"] / base)
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        (Step(7, 0.5), lambda o, n: torch.optim.lr_scheduler.StepLR(o, 7, gamma=0.5)),
        (OneCycle(), lambda o, n: torch.optim.lr_scheduler.OneCycleLR(o, 2.0, total_steps=n)),
        (
            OneCycle(warm_up=0.1, start=0.1, end=0.001),
            lambda o, n: torch.optim.lr_scheduler.OneCycleLR(
                o, 2.0, total_steps=n, pct_start=0.1, div_factor=10, final_div_factor=100
            ),
        ),
    ],
    ids=["step", "one cycle", "one cycle settings"],
)
@pytest.mark.parametrize("n_steps", [11, 100])
def test_schedules_equal_torchs(
    schedule: Schedule, make: Callable[[Any, int], Any], n_steps: int
) -> None:
    # The last call would go past torch's total; the rates are read before it.
    expected = rates(lambda o: make(o, n_steps + 1), n_steps, base=2.0)
    ours = [schedule(step, n_steps + 1) for step in range(n_steps)]
    assert ours == pytest.approx(expected, rel=1e-9)


def test_plateau_equals_torchs() -> None:
    losses = [3.0, 2.0, 2.0, 1.9999, 2.1, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.6, float("nan"), 0.7]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=2, min_lr=0.2, eps=0.0
    )
    ours = Plateau(0.5, patience=2, floor=0.2)
    for loss in losses:
        theirs.step(loss)
        ours.observe(loss)
        assert ours(0, 1) == pytest.approx(optimizer.param_groups[0]["lr"])
    assert ours(0, 1) < 0.5
