"""Distillation: gradients against differences, and what a student learns."""

import signal
import threading

import numpy as np
import pytest

from compress.distillation import Distill, FineTune, twin
from compress.distillation.loss import BlendedError, SoftTargets
from compress.technique import Data
from hlserve.datasets import Rows
from hlserve.errors import CompressionError, ConfigError, DataError
from hlserve.nn.architectures import build


@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_target_gradient_is_the_difference_quotient(rng, alpha, temperature):
    loss = SoftTargets(temperature, alpha)
    _check_gradient(
        loss,
        rng.normal(size=(5, 7)),
        {"teacher_logits": rng.normal(size=(7, 5)), "labels": rng.integers(0, 5, 7)},
        rng,
    )


def test_blended_error_gradient_is_the_difference_quotient(rng):
    loss = BlendedError(0.4, np.array([2.0, 3.0]))
    _check_gradient(
        loss,
        rng.normal(size=(2, 6)),
        {"teacher_logits": rng.normal(size=(6, 2)), "labels": rng.normal(size=(6, 2))},
        rng,
    )


def _check_gradient(loss, scores, targets, rng):
    _, d = loss(scores, targets)
    d = d.copy()
    direction, step = rng.normal(size=scores.shape), 1e-6
    up, down = (
        loss(scores + step * direction, targets)[0],
        loss(scores - step * direction, targets)[0],
    )
    assert np.sum(d * direction) == pytest.approx((up - down) / (2 * step), rel=1e-6)


def test_soft_loss_is_least_at_the_teachers_answers(rng):
    teacher = rng.normal(size=(6, 4))
    loss = SoftTargets(3.0, 1.0)
    best, d = loss(teacher.T.copy(), {"teacher_logits": teacher})
    assert np.abs(d).max() < 1e-12
    assert best < loss(teacher.T + rng.normal(size=(4, 6)), {"teacher_logits": teacher})[0]


def test_extreme_scores_stay_finite():
    scores = np.array([[1e4, -1e4], [0.0, 0.0]], np.float32)
    value, d = SoftTargets(2.0, 1.0)(scores, {"teacher_logits": -scores.T})
    assert np.isfinite(value)
    assert np.isfinite(d).all()


def test_a_fresh_student_learns_from_the_teacher_alone(trained_mlp, mlp_rows, mlp_data):
    student = build(
        "mlp:16", input_shape=(40,), n_outputs=4, task="classification", scale=1 / 255, seed=5
    )
    unlabelled = Data(Rows(mlp_rows.inputs), mlp_data.teacher_logits)
    learned = Distill(epochs=12, learning_rate=5e-3).apply(student, unlabelled).network
    teacher = trained_mlp.predict(mlp_rows.x)["probabilities"].argmax(1)
    answers = learned.predict(mlp_rows.x)["probabilities"].argmax(1)
    assert np.mean(answers == teacher) > 0.9


def test_the_twin_trains_as_a_teacher_without_a_say_would(trained_mlp, mlp_data):
    step = Distill(epochs=2, learning_rate=2e-3, batch_size=64, alpha=1e-12)
    alone, taught = (s.apply(trained_mlp, mlp_data).network for s in (twin(step), step))
    moved = np.abs(alone.value - trained_mlp.value).max()
    assert moved > 1e-2
    # the teacher's share of the loss is lost in float32
    np.testing.assert_allclose(alone.value, taught.value, atol=1e-3 * moved)


def test_regression_distils_numbers(rng):
    x = rng.normal(size=(300, 3)).astype(np.float32)
    y = (x @ [3.0, -2.0, 1.0]).astype(np.float32)
    network = build(
        "mlp:16", input_shape=(3,), n_outputs=1, task="regression",
        standardize=(x.mean(0), x.std(0)),
        standardize_targets=(np.array([y.mean()]), np.array([y.std()])),
    )  # fmt: skip
    data = Data(Rows({"x": x}, y), y.reshape(-1, 1).copy())
    before = np.mean((network.predict(x)["output"][:, 0] - y) ** 2)
    after = Distill(epochs=20, learning_rate=1e-2).apply(network, data).network
    assert np.mean((after.predict(x)["output"][:, 0] - y) ** 2) < before / 20


def test_mistakes_are_refused(trained_mlp, mlp_rows):
    with pytest.raises(ConfigError, match="alpha is 0"):
        Distill(alpha=0)
    with pytest.raises(ConfigError, match="epochs is 0"):
        Distill(epochs=0)
    with pytest.raises(CompressionError, match="both must tell the same classes apart"):
        Distill().apply(trained_mlp, Data(mlp_rows, np.zeros((len(mlp_rows), 7), np.float32)))
    with pytest.raises(DataError, match="'labels'"):
        SoftTargets(1.0, 0.5)(np.zeros((2, 1)), {"teacher_logits": np.zeros((1, 2))})


@pytest.mark.parametrize("technique", [Distill(epochs=1000), FineTune(epochs=1000)])
def test_ctrl_c_ends_the_whole_job_not_this_step_alone(trained_mlp, mlp_data, technique):
    timer = threading.Timer(0.3, signal.raise_signal, (signal.SIGINT,))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        technique.apply(trained_mlp, mlp_data)
    timer.join()
