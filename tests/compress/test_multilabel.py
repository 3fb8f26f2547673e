"""Several yes-or-no labels a row, judged label by label and distilled without a softmax."""

import numpy as np
import pytest

from compress.distillation import Distill, FineTune
from compress.distillation.loss import SoftLabels
from compress.evaluate import make_judge
from compress.export import to_onnx
from compress.job import compress
from compress.metric import ACCURACY, LABEL_AGREEMENT
from compress.pruning import PruneChannels
from compress.session import Session
from compress.technique import Data
from hlserve.datasets import Rows
from hlserve.nn.architectures import build, build_for
from hlserve.nn.losses import BinaryCrossEntropy
from hlserve.nn.trainer import fit


@pytest.fixture(scope="module")
def marked():
    """Rows of ten numbers, and whether each of three sums of them is above 0."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 10)).astype(np.float32)
    return Rows({"x": x}, (x @ rng.normal(size=(10, 3)) > 0).astype(np.int64))


@pytest.fixture(scope="module")
def network(marked):
    made = build_for("mlp:48", marked.x, marked.y, task="multilabel")
    fit(made, marked.x, marked.y, epochs=10, progress=False)
    return made


def share_right(network, rows):
    return ((network.predict(rows.x)["probabilities"] > 0.5) == rows.y).mean()


def judge_of(network, labels, **options):
    model = to_onnx(network)
    session = Session(model.SerializeToString())
    return make_judge(model, session, labels, **options), session


def test_labels_are_counted_one_by_one(network, marked):
    judge, session = judge_of(network, marked.y)
    assert judge.metric is ACCURACY
    answers = judge.answers(session, {"input": marked.x})
    values = judge.per_row(answers, marked.y)
    assert set(np.round(3 * values)) <= {0, 1, 2, 3}
    assert values.mean() == pytest.approx(share_right(network, marked))


def test_without_labels_every_label_of_the_original_counts(network, marked):
    judge, session = judge_of(network, None)
    assert judge.metric is LABEL_AGREEMENT
    answers = judge.answers(session, {"input": marked.x})
    assert judge.per_row(answers, answers).mean() == 1.0
    flipped = 1 - answers
    flipped[:, 0] = answers[:, 0]
    np.testing.assert_allclose(judge.per_row(flipped, answers), 1 / 3)


def test_one_class_a_row_still_goes_by_the_highest_sigmoid(network, marked):
    judge, session = judge_of(network, marked.y.argmax(axis=1))
    answers = judge.answers(session, {"input": marked.x})
    classes = answers.argmax(axis=1)
    assert judge.metric is ACCURACY
    assert judge.per_row(answers, classes).mean() == 1.0


@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_label_gradient_is_the_difference_quotient(alpha, temperature):
    rng = np.random.default_rng(0)
    loss, scores = SoftLabels(temperature, alpha), rng.normal(size=(5, 7))
    targets = {"teacher_logits": rng.normal(size=(7, 5)), "labels": rng.integers(0, 2, (7, 5))}
    d = loss(scores, targets)[1].copy()
    direction, step = rng.normal(size=scores.shape), 1e-6
    up, down = (loss(scores + sign * step * direction, targets)[0] for sign in (1, -1))
    # Central differences in float64 err by the step squared and by rounding / step.
    assert np.sum(d * direction) == pytest.approx((up - down) / (2 * step), rel=1e-6)


def test_a_teacher_that_is_sure_teaches_its_labels():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, (6, 4)), rng.normal(size=(4, 6)).astype(np.float32)
    teacher = (2e4 * labels - 1e4).astype(np.float32)
    value, d = SoftLabels(1.0, 1.0)(scores, {"teacher_logits": teacher})
    expected, d_expected = BinaryCrossEntropy()(scores, labels)
    assert value == pytest.approx(expected, rel=1e-6)  # float32
    np.testing.assert_allclose(d, d_expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("importance", ["l1", "taylor"])
def test_pruned_and_trained_again_it_answers_as_before(network, marked, importance):
    logits = network.activations(marked.inputs, [network.logits_node])
    data = Data(marked, next(iter(logits.values())).T.copy())
    smaller = PruneChannels(0.5, importance=importance).apply(network, data).network
    assert smaller.n_parameters < network.n_parameters
    for technique in (FineTune(epochs=15), Distill(epochs=15)):
        learned = technique.apply(smaller, data).network
        assert learned.task == "multilabel"
        assert share_right(learned, marked) > share_right(network, marked) - 0.05


def test_a_fresh_student_learns_from_the_teacher_alone(network, marked):
    student = build("mlp:16", input_shape=(10,), n_outputs=3, task="multilabel", seed=5)
    logits = network.activations(marked.inputs, [network.logits_node])
    unlabelled = Data(Rows(marked.inputs), next(iter(logits.values())).T.copy())
    learned = Distill(epochs=12, learning_rate=1e-2).apply(student, unlabelled).network
    assert share_right(learned, marked) > 0.9


@pytest.mark.parametrize("has_labels", [True, False])
def test_the_whole_job_makes_it_smaller(network, marked, has_labels):
    rows = marked if has_labels else Rows(marked.inputs)
    result = compress(network, train=rows, max_drop=0.1, minimize="bytes", batches=(1,))
    assert result.judge.metric is (ACCURACY if has_labels else LABEL_AGREEMENT)
    assert result.best.candidate.size_bytes < result.original.candidate.size_bytes


@pytest.mark.parametrize("has_labels", [True, False])
@pytest.mark.parametrize("is_ours", [True, False])
def test_a_student_takes_its_place(network, marked, is_ours, has_labels):
    result = compress(
        network if is_ours else to_onnx(network),
        train=marked if has_labels else Rows(marked.inputs),
        student="mlp:12",
        max_drop=0.2,
        minimize="bytes",
        batches=(1,),
    )
    assert result.best.candidate.name.startswith("student")
    assert result.best.drop.estimate < 0.1
