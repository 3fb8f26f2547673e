from collections.abc import Callable

import numpy as np
import pytest
from sklearn import metrics as reference

from hlserve.errors import ConfigError, DataError
from hlserve.nn.architectures import build
from hlserve.nn.evaluation import (
    EVALUATION_BATCH,
    METRICS,
    Evaluation,
    Metric,
    Part,
    default_loss,
    evaluate,
    metric_of,
)
from hlserve.nn.examples import Examples
from hlserve.nn.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Loss,
    MeanSquaredError,
    Quantile,
    Targets,
)
from hlserve.nn.network import Network, Task
from hlserve.nn.param import Array

# More than two batches, the last one short; float32 networks, so metrics agree to 1e-6.
N = 2 * EVALUATION_BATCH + 37
CLOSE = {"rel": 1e-5, "abs": 1e-7}

TASKS: tuple[Task, ...] = ("classification", "multilabel", "regression")


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def rows() -> Array:
    return rng().normal(size=(N, 6)).astype(np.float32)


def network_of(task: Task, n_outputs: int = 4) -> Network:
    return build("mlp:8", input_shape=(6,), n_outputs=n_outputs, task=task, seed=1)


def targets_of(task: Task, n_outputs: int = 4) -> Array:
    if task == "classification":
        return rng().integers(0, n_outputs, N)
    if task == "multilabel":
        return rng().integers(0, 2, (N, n_outputs))
    return rng().normal(size=(N, n_outputs)).astype(np.float32)


def predicted(network: Network) -> Array:
    return next(iter(network.predict(rows()).values())).astype(np.float64)


def calibration_error(probabilities: Array, labels: Array) -> float:
    """Guo et al. 2017, equation 5, of 15 bins."""
    claimed, is_right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.ceil(claimed * 15)
    gaps = [abs(np.sum(is_right[bins == b] - claimed[bins == b])) for b in range(1, 16)]
    return float(sum(gaps) / len(labels))


# Of the network's answers (probabilities, or numbers) and the targets, by task and name.
ORACLES: dict[tuple[Task, str], Callable[[Array, Array], float]] = {
    ("classification", "accuracy"): lambda p, y: reference.accuracy_score(y, p.argmax(1)),
    ("classification", "f1"): lambda p, y: reference.f1_score(y, p.argmax(1), average="macro"),
    ("classification", "roc auc"): lambda p, y: reference.roc_auc_score(
        y, p / p.sum(1, keepdims=True), multi_class="ovr"
    ),
    ("classification", "average precision"): lambda p, y: reference.average_precision_score(y, p),
    ("classification", "log loss"): lambda p, y: reference.log_loss(y, p / p.sum(1, keepdims=True)),
    ("classification", "brier"): lambda p, y: reference.brier_score_loss(
        y, p / p.sum(1, keepdims=True), scale_by_half=False
    ),
    ("classification", "calibration error"): lambda p, y: calibration_error(p, y),
    ("multilabel", "f1"): lambda p, y: reference.f1_score(y, p > 0.5, average="macro"),
    ("multilabel", "accuracy"): lambda p, y: 1 - reference.hamming_loss(y, p > 0.5),
    ("multilabel", "roc auc"): lambda p, y: reference.roc_auc_score(y, p),
    ("multilabel", "average precision"): lambda p, y: reference.average_precision_score(y, p),
    ("regression", "mean absolute error"): lambda p, y: reference.mean_absolute_error(y, p),
    ("regression", "mean squared error"): lambda p, y: reference.mean_squared_error(y, p),
    ("regression", "r2"): lambda p, y: reference.r2_score(y, p),
}


def test_every_metric_has_its_oracle() -> None:
    assert set(ORACLES) == {(task, metric.name) for metric in METRICS for task in metric.tasks}


@pytest.mark.parametrize(("task", "name"), ORACLES, ids=" ".join)
@pytest.mark.parametrize("n_outputs", [2, 4])
def test_metrics_of_a_whole_set_equal_scikit_learns(task: Task, name: str, n_outputs: int) -> None:
    network, targets = network_of(task, n_outputs), targets_of(task, n_outputs)
    oracle = ORACLES[task, name]
    if (task, n_outputs) == ("classification", 2) and name in ("roc auc", "average precision"):
        expected = oracle_of_class_one(name, predicted(network)[:, 1], targets)
    else:
        expected = oracle(predicted(network), targets)
    found = evaluate(network, rows(), targets, metric=name)
    assert found.metric == pytest.approx(expected, **CLOSE)
    assert found.n_rows == N


def oracle_of_class_one(name: str, scores: Array, labels: Array) -> float:
    if name == "roc auc":
        return float(reference.roc_auc_score(labels, scores))
    return float(reference.average_precision_score(labels, scores))


@pytest.mark.parametrize(("task", "name"), ORACLES, ids=" ".join)
def test_part_of_a_set_is_judged_as_those_rows_alone(task: Task, name: str) -> None:
    network, targets = network_of(task), targets_of(task)
    some = np.sort(rng().permutation(N)[:300])
    part = evaluate(network, rows(), targets, indices=some, metric=name)
    alone = evaluate(network, rows()[some], targets[some], metric=name)
    assert part == alone


@pytest.mark.parametrize("task", TASKS)
def test_the_loss_of_a_set_is_that_of_all_its_rows_at_once(task: Task) -> None:
    network, targets = network_of(task), targets_of(task)
    scores, _ = network.forward(rows(), until=network.logits_node)
    weights = rng().exponential(size=N).astype(np.float32)
    weights[:EVALUATION_BATCH] = 0.0  # a whole batch that counts nothing
    class_weight = np.array([0.2, 3.0, 1.0, 0.5])
    loss: Loss = {
        "classification": CrossEntropy(0.1, class_weight),
        "multilabel": BinaryCrossEntropy(class_weight),
        "regression": MeanSquaredError(class_weight),
    }[task]
    given: list[Targets] = [targets, {"labels": targets, "weights": weights}]
    for each in given:
        found = evaluate(network, rows(), each, loss=loss)
        # float32 sums in another order
        assert found.loss == pytest.approx(loss(scores, each)[0], rel=1e-5)


def test_rows_weights_leave_the_metric_alone() -> None:
    network, labels = network_of("classification"), targets_of("classification")
    weighted = evaluate(network, rows(), {"labels": labels, "weights": rng().random(N)})
    assert weighted.metric == evaluate(network, rows(), labels).metric


@pytest.mark.parametrize(("task", "name"), ORACLES, ids=" ".join)
def test_a_network_that_diverged_has_a_loss_that_says_so(task: Task, name: str) -> None:
    network = network_of(task)
    network.value[:] = np.nan
    found = evaluate(network, rows(), targets_of(task), metric=name)
    assert found.n_rows == N
    assert np.isnan(found.loss)
    assert found.metric is not None
    assert np.isnan(found.metric)


# ----- which metric, which loss


def chosen(network: Network, targets: Targets, name: str | None = None) -> Metric | None:
    return metric_of(network, Examples.checked(network, rows(), targets), name)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("classification", "accuracy"),
        ("multilabel", "f1"),
        ("regression", "mean absolute error"),
    ],
)
def test_every_task_has_its_metric(task: Task, expected: str) -> None:
    found = chosen(network_of(task), targets_of(task))
    assert found is not None
    assert found.name == expected


@pytest.mark.parametrize("name", ["roc auc", "roc_auc", "roc-auc"])
def test_a_metric_is_named_with_spaces_or_without(name: str) -> None:
    found = chosen(network_of("multilabel"), targets_of("multilabel"), name)
    assert found is not None
    assert (found.name, found.is_larger_better) == ("roc auc", True)


def test_errors_are_better_when_smaller() -> None:
    smaller = {metric.name for metric in METRICS if not metric.is_larger_better}
    assert smaller == {
        "mean absolute error",
        "mean squared error",
        "log loss",
        "brier",
        "calibration error",
    }


def test_targets_that_the_network_does_not_answer_have_no_metric() -> None:
    soft = np.full((N, 4), 0.25, np.float32)
    assert chosen(network_of("classification"), soft) is None
    assert chosen(network_of("classification"), {"teacher": soft}) is None
    of_quantiles = network_of("regression", n_outputs=3)
    assert chosen(of_quantiles, np.zeros(N, np.float32)) is None


@pytest.mark.parametrize(
    ("task", "name", "message"),
    [
        ("classification", "r2", "no metric 'r2' for classification; there are accuracy, f1"),
        ("regression", "accuracy", "there are mean absolute error"),
        ("multilabel", "nonsense", "no metric 'nonsense' for multilabel"),
    ],
)
def test_a_metric_of_another_task_is_refused(task: Task, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(network_of(task), rows(), targets_of(task), metric=name)


def test_a_named_metric_needs_targets_to_compare_with() -> None:
    soft = np.full((N, 4), 0.25, np.float32)
    with pytest.raises(ConfigError, match="targets are not what the network answers"):
        chosen(network_of("classification"), soft, "f1")


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("classification", CrossEntropy),
        ("multilabel", BinaryCrossEntropy),
        ("regression", MeanSquaredError),
    ],
)
def test_every_task_has_its_loss_with_weights_or_without(task: Task, expected: type) -> None:
    network = network_of(task)
    labels = targets_of(task)
    given: list[Targets] = [labels, {"labels": labels, "weights": np.ones(N)}]
    for targets in given:
        examples = Examples.checked(network, rows(), targets)
        assert type(default_loss(network, Part(examples, np.arange(N)))) is expected


def test_other_named_targets_need_a_loss_of_ones_own() -> None:
    network, labels = network_of("classification"), targets_of("classification")
    examples = Examples.checked(network, rows(), {"labels": labels, "teacher": np.zeros((N, 4))})
    with pytest.raises(ConfigError, match="say which loss"):
        default_loss(network, Part(examples, np.arange(N)))


def test_several_quantiles_of_one_number_are_evaluated_by_their_loss() -> None:
    network = network_of("regression", n_outputs=3)
    targets = targets_of("regression", n_outputs=1)
    loss = Quantile((0.1, 0.5, 0.9))
    scores, _ = network.forward(rows())
    expected = loss(scores, targets)[0]
    found = evaluate(network, rows(), targets, loss=loss)
    assert found == Evaluation(N, pytest.approx(expected, rel=1e-5), None)  # float32 sums
    with pytest.raises(DataError, match=rf"shape \({N}, 1\), the network answers 3 numbers"):
        evaluate(network, rows(), targets)
