"""What fit can be asked for beside the plain run: gradients, weights, augmentation, callbacks."""

import math

import numpy as np
import pytest

from hlserve.errors import ConfigError, DataError, DivergenceError
from hlserve.nn.architectures import build, build_for
from hlserve.nn.augmentation import Augment
from hlserve.nn.evaluation import evaluate
from hlserve.nn.history import EpochRecord
from hlserve.nn.losses import CrossEntropy, Targets
from hlserve.nn.metrics import f1
from hlserve.nn.network import Network
from hlserve.nn.optimizers import SGD
from hlserve.nn.param import Array
from hlserve.nn.schedules import Constant, Plateau
from hlserve.nn.training_settings import Gradients, StopTraining, Weighting
from hlserve.nn.workspace import Workspace
from tests.nn.test_trainer import classifier, clusters, quick

X, Y = clusters(200)


def trained(**settings: object) -> Array:
    network = classifier()
    quick(network, X, Y, validation=None, optimizer=SGD(0.05), **settings)
    return network.value


# ----- gradients


@pytest.mark.parametrize("n_rows", [192, 200, 195])  # whole steps; a short step; a short batch
def test_accumulated_batches_equal_the_large_batch(n_rows: int) -> None:
    weights = np.random.default_rng(0).uniform(0, 2, n_rows)
    values = []
    for size, gradients in ((64, Gradients()), (16, Gradients(accumulate=4))):
        network = classifier()
        history = quick(
            network,
            X[:n_rows],
            Y[:n_rows],
            validation=None,
            batch_size=size,
            gradients=gradients,
            weighting=Weighting("balanced", weights),
            optimizer=SGD(0.05),
        )
        values.append((network.value, history.epochs[-1].train_loss))
    # The same sums in another order: some ten roundings of numbers around 1.
    np.testing.assert_allclose(values[0][0], values[1][0], rtol=1e-4, atol=1e-6)
    assert values[0][1] == pytest.approx(values[1][1], rel=1e-5)


def test_a_clipped_step_is_no_longer_than_the_limit() -> None:
    network = classifier()
    before = network.value.copy()
    plain = SGD(1.0, momentum=0.0)
    arguments = {"epochs": 1, "batch_size": 200, "schedule": Constant(), "validation": None}
    quick(network, X, Y, optimizer=plain, gradients=Gradients(clip_norm=1e-3), **arguments)
    # float32 values near 1 are rounded by 6e-8 each, against a step of 1e-3.
    assert np.linalg.norm(network.value - before) == pytest.approx(1e-3, rel=1e-3)
    unclipped, same = (trained(gradients=Gradients(clip_norm=limit)) for limit in (None, 1e6))
    np.testing.assert_array_equal(unclipped, same)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"clip_norm": 0.0}, "clip_norm is 0.0"), ({"accumulate": 0}, "accumulate is 0")],
)
def test_gradient_settings_that_make_no_sense_are_refused(
    settings: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Gradients(**settings)  # type: ignore[arg-type]


def explosive(scores: Array, targets: Targets) -> tuple[float, Array]:
    """A finite loss with a gradient that is not."""
    d = np.zeros_like(scores)
    d[0, 0] = np.inf
    return 1.0, d


def test_a_gradient_that_is_not_finite_names_its_parameter() -> None:
    clipped = Gradients(clip_norm=1.0)
    with pytest.raises(DivergenceError, match=r"step 1: the gradient of parameter 'linear_1.weig"):
        trained(loss=explosive, gradients=clipped)


def test_without_clipping_it_is_found_when_the_weights_show_it() -> None:
    with pytest.raises(DivergenceError, match=r"epoch 1: parameter 'linear_1.weight' is not fin"):
        trained(loss=explosive, batch_size=200)

    calls = iter(range(100))

    def once(scores: Array, targets: Targets) -> tuple[float, Array]:
        return explosive(scores, targets) if next(calls) == 2 else CrossEntropy()(scores, targets)

    with pytest.raises(DivergenceError, match=r"step 4: .*'linear_1.weight' was made NaN or inf"):
        trained(loss=once, batch_size=32)


# ----- weights


def test_class_weights_equal_the_losss_own() -> None:
    weights = [1.0, 2.0, 0.5]
    by_fit = trained(weighting=Weighting(class_weight=weights))
    by_loss = trained(loss=CrossEntropy(class_weight=weights))
    # The same numbers, multiplied in float32 once and in float64 once.
    np.testing.assert_allclose(by_fit, by_loss, rtol=1e-4, atol=1e-6)
    assert not np.allclose(by_fit, trained(), rtol=1e-2)


def test_a_row_of_weight_two_counts_as_the_row_twice() -> None:
    doubled = np.arange(len(X)) % 3 == 0
    network, other = classifier(), classifier()
    arguments = {"validation": None, "batch_size": 1000, "epochs": 5}
    weights = Weighting(sample_weight=np.where(doubled, 2.0, 1.0))
    quick(network, X, Y, weighting=weights, optimizer=SGD(0.05), **arguments)
    twice = np.concatenate([np.arange(len(X)), np.flatnonzero(doubled)])
    quick(other, X[twice], Y[twice], optimizer=SGD(0.05), **arguments)
    # One step an epoch, so only the order of sums differs: roundings of numbers around 1.
    np.testing.assert_allclose(network.value, other.value, rtol=1e-4, atol=1e-5)


def test_balanced_classes_help_the_rare_one() -> None:
    rng = np.random.default_rng(0)
    y = (np.arange(1000) % 20 == 0).astype(np.int64)
    x = (rng.normal(size=(1000, 2)) + 1.2 * y[:, np.newaxis]).astype(np.float32)
    recalls = []
    for weighting in (Weighting(), Weighting("balanced")):
        network = build_for("mlp:8", x, y, task="classification")
        quick(network, x, y, weighting=weighting, epochs=10)
        answers = network.predict(x)["probabilities"].argmax(axis=1)
        recalls.append(np.mean(answers[y == 1] == 1))
    assert recalls[1] > recalls[0] + 0.3


@pytest.mark.parametrize(
    ("weighting", "error", "message"),
    [
        (Weighting([1.0, 2.0]), ConfigError, "expected 3 numbers of 0 or more"),
        (Weighting([1.0, -1.0, 1.0]), ConfigError, "expected 3 numbers of 0 or more"),
        (Weighting("even"), ConfigError, "class_weight is 'even'"),  # type: ignore[arg-type]
        (Weighting(sample_weight=np.ones(7)), DataError, "equally many"),
        (Weighting(sample_weight=-np.ones(200)), DataError, "expected none below 0"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    weighting: Weighting, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        trained(weighting=weighting)


def test_class_weights_need_classes() -> None:
    network = build("mlp:4", input_shape=(6,), n_outputs=1, task="regression")
    with pytest.raises(ConfigError, match="class_weight needs class labels"):
        quick(network, X, Y.astype(np.float32), weighting=Weighting("balanced"))


# ----- augmentation


def test_augmentation_changes_training_rows_alone() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    y = np.arange(60) % 2
    raw = x.copy()
    network, plain = (build_for("mlp:8", x, y, task="classification") for _ in range(2))
    history = quick(network, x, y, augment=Augment(shift=1, flip=True), validation=(x, y))
    quick(plain, x, y, validation=(x, y))
    np.testing.assert_array_equal(x, raw)
    assert not np.array_equal(network.value, plain.value)
    assert history.best is not None
    # Validation as anyone would do it afterwards, on the rows as they are.
    assert history.best.validation_loss == pytest.approx(evaluate(network, x, y).loss, rel=1e-6)


def test_augmentation_sees_rows_as_they_were_given_and_repeats_by_the_seed() -> None:
    x = np.random.default_rng(0).normal(size=(50, 3, 4)).astype(np.float32)
    y = np.arange(50) % 2
    shapes: set[tuple[int, ...]] = set()

    def jitter(rows: Array, rng: np.random.Generator, buffers: Workspace) -> Array:
        shapes.add(rows.shape)
        return (rows + rng.normal(size=rows.shape)).astype(rows.dtype)

    values = []
    for seed in (0, 0, 1):
        network = build("mlp:4", input_shape=(12,), n_outputs=2, task="classification")
        quick(network, x, y, augment=jitter, validation=None, batch_size=25, seed=seed)
        values.append(network.value)
    assert shapes == {(25, 3, 4)}
    np.testing.assert_array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])


def test_augmentation_must_keep_shape_and_type() -> None:
    with pytest.raises(ConfigError, match=r"augment made float64 \(32, 6\) of rows that were flo"):
        trained(augment=lambda rows, rng, buffers: rows.astype(np.float64))


# ----- callbacks, metric, schedule


def raise_stop(network: Network, record: EpochRecord) -> bool | None:
    raise StopTraining


@pytest.mark.parametrize(
    "stop", [lambda network, record: True, lambda network, record: np.True_, raise_stop]
)
def test_a_callback_may_stop_the_training(stop: object) -> None:
    seen: list[int] = []
    history = quick(
        classifier(), X, Y, callbacks=[stop, lambda network, record: seen.append(record.epoch)]
    )
    assert history.ending == "stopped"
    assert len(history.epochs) == 1
    assert history.best_epoch == 1
    # One that answers lets the others see the epoch; an exception is at once.
    assert seen == ([] if stop is raise_stop else [1])


def test_only_true_stops() -> None:
    assert quick(classifier(), X, Y, callbacks=[lambda n, r: 1]).ending == "all epochs"  # type: ignore[list-item]


def test_the_metric_is_chosen_by_name_and_ranks_the_epochs() -> None:
    network = classifier()
    history = quick(network, X, Y, epochs=6, metric="f1", validation=(X, Y))
    assert history.metric == "f1"
    found = [record.validation_metric for record in history.epochs]
    assert history.best is not None
    assert history.best.validation_metric == max(m for m in found if m is not None)
    answers = network.predict(X)["probabilities"].argmax(axis=1)
    assert history.best.validation_metric == pytest.approx(f1(answers, Y), abs=1e-12)


def test_where_less_is_better_the_lowest_metric_ranks_first() -> None:
    numbers = X.sum(axis=1)
    network = build_for("mlp:8", X, numbers, task="regression")
    history = quick(network, X, numbers, epochs=8, metric="mean_squared_error")
    assert history.best is not None
    assert history.best.validation_metric == min(
        record.validation_metric or math.inf for record in history.epochs
    )


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ConfigError, match="no metric 'bleu' for classification; there are acc"):
        trained(metric="bleu")


def test_a_plateau_is_told_the_validation_loss() -> None:
    history = quick(
        classifier(),
        X,
        Y,
        epochs=5,
        optimizer=SGD(1e-9),  # nothing improves
        schedule=Plateau(factor=0.5, patience=0),
    )
    rates = [record.learning_rate for record in history.epochs]
    # The first epoch's loss is the lowest so far; every later one halves the rate.
    assert rates == [1e-9, 1e-9, 5e-10, 2.5e-10, 1.25e-10]
