"""Value and gradient of our losses against torch.nn in float64, at ordinary and huge scores."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hlserve.nn.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Focal,
    Huber,
    Loss,
    MeanSquaredError,
    Quantile,
)
from hlserve.nn.param import Array

torch = pytest.importorskip("torch")

OUTPUTS, BATCH = 5, 12
WEIGHT = np.array([0.5, 2.0, 0.0, 1.5, 1.0])
Reference = Callable[[Any, Any], Any]  # torch scores (batch, outputs) and targets -> value


def classes(rng: np.random.Generator) -> Array:
    return rng.integers(0, OUTPUTS, BATCH)


def marks(rng: np.random.Generator) -> Array:
    return rng.integers(0, 2, (BATCH, OUTPUTS)).astype(np.float64)


def numbers(rng: np.random.Generator) -> Array:
    return rng.normal(size=(BATCH, OUTPUTS))


def focal(scores: Any, labels: Any) -> Any:
    log_p = torch.log_softmax(scores, 1).gather(1, labels[:, None])[:, 0]
    return (-((1 - log_p.exp()) ** 2) * log_p).mean()


def pinball(scores: Any, targets: Any) -> Any:
    error = targets - scores
    return torch.maximum(0.8 * error, -0.2 * error).mean()


weight = torch.tensor(WEIGHT)
CASES: dict[str, tuple[Loss, Callable[[np.random.Generator], Array], Reference]] = {
    "cross-entropy": (CrossEntropy(), classes, torch.nn.CrossEntropyLoss()),
    "smoothed": (CrossEntropy(0.1), classes, torch.nn.CrossEntropyLoss(label_smoothing=0.1)),
    "class weights": (
        CrossEntropy(class_weight=WEIGHT),
        classes,
        torch.nn.CrossEntropyLoss(weight=weight),
    ),
    "smoothed, class weights": (
        CrossEntropy(0.3, WEIGHT),
        classes,
        torch.nn.CrossEntropyLoss(weight=weight, label_smoothing=0.3),
    ),
    "focal": (Focal(2.0), classes, focal),
    "binary": (BinaryCrossEntropy(), marks, torch.nn.BCEWithLogitsLoss()),
    "binary, class weights": (
        BinaryCrossEntropy(WEIGHT),
        marks,
        torch.nn.BCEWithLogitsLoss(pos_weight=weight),
    ),
    "squared error": (MeanSquaredError(), numbers, torch.nn.MSELoss()),
    "huber": (Huber(0.7), numbers, torch.nn.HuberLoss(delta=0.7)),
    "quantile": (Quantile(0.8), numbers, pinball),
}


@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
@pytest.mark.parametrize(("loss", "make_targets", "reference"), CASES.values(), ids=CASES)
def test_value_and_gradient_equal_torchs(
    loss: Loss,
    make_targets: Callable[[np.random.Generator], Array],
    reference: Reference,
    size: float,
) -> None:
    rng = np.random.default_rng(3)
    targets = make_targets(rng)
    scores = size * rng.normal(size=(OUTPUTS, BATCH))
    value, gradient = loss(scores, targets)
    theirs = torch.tensor(scores.T.copy(), requires_grad=True)
    expected = reference(theirs, torch.tensor(targets))
    expected.backward()
    # float64 sums of some sixty terms in another order.
    assert value == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(gradient.T, theirs.grad.numpy(), rtol=1e-9, atol=1e-14)


def test_rows_weights_equal_torchs_unreduced_losses() -> None:
    rng = np.random.default_rng(3)
    labels, scores, weights = classes(rng), rng.normal(size=(OUTPUTS, BATCH)), rng.random(BATCH)
    value, gradient = CrossEntropy(class_weight=WEIGHT)(
        scores, {"labels": labels, "weights": weights}
    )
    theirs, rows = torch.tensor(scores.T.copy(), requires_grad=True), torch.tensor(weights)
    each = torch.nn.CrossEntropyLoss(weight=weight, reduction="none")(theirs, torch.tensor(labels))
    expected = (rows * each).sum() / (rows * weight[torch.tensor(labels)]).sum()
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-12)  # as above
    np.testing.assert_allclose(gradient.T, theirs.grad.numpy(), rtol=1e-9, atol=1e-14)
