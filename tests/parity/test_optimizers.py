"""Our optimizers against torch.optim, step for step."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hlserve.nn.optimizers import SGD, AdamW, Optimizer

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
