import signal
import tracemalloc
from collections.abc import Mapping

import numpy as np
import pytest

from hlserve.errors import ConfigError, DataError, DivergenceError, ModelFileError
from hlserve.nn.architectures import build, build_for
from hlserve.nn.evaluation import evaluate
from hlserve.nn.history import EpochRecord, History
from hlserve.nn.layers import Dropout, Linear, ReLU
from hlserve.nn.losses import Targets
from hlserve.nn.network import Input, Network, sequential
from hlserve.nn.optimizers import SGD, AdamW
from hlserve.nn.param import Array
from hlserve.nn.schedules import Constant
from hlserve.nn.split import validation_split
from hlserve.nn.trainer import fit
from hlserve.nn.training_settings import EarlyStopping


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def clusters(n: int = 300, n_classes: int = 3) -> tuple[Array, Array]:
    """Rows that a small network tells apart almost perfectly."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, n_classes, n)
    centres = 3.0 * rng.normal(size=(n_classes, 6))
    return (centres[y] + rng.normal(size=(n, 6))).astype(np.float32), y


def classifier(n_classes: int = 3, seed: int = 0) -> Network:
    return build("mlp:16", input_shape=(6,), n_outputs=n_classes, task="classification", seed=seed)


def quick(network: Network, x: Array, y: Targets, **settings: object) -> History:
    arguments = {"epochs": 3, "batch_size": 32, "optimizer": AdamW(0.01), "progress": False}
    return fit(network, x, y, **(arguments | settings))  # type: ignore[arg-type]


# ----- learning


def test_a_classifier_learns_clusters() -> None:
    x, y = clusters()
    network = classifier()
    history = quick(network, x, y, epochs=20)
    assert history.metric == "accuracy"
    assert history.best is not None
    assert history.best.validation_metric == pytest.approx(1.0, abs=0.05)
    assert history.epochs[-1].train_loss < 0.5 * history.epochs[0].train_loss
    predicted = network.predict(x)["probabilities"].argmax(axis=1)
    assert evaluate(network, x, y).metric == np.mean(predicted == y)


@pytest.mark.parametrize(("unit", "offset"), [(1e-4, 0.0), (1.0, 0.0), (1e5, 3e6)])
def test_regression_learns_alike_in_any_units(unit: float, offset: float) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(400, 4)).astype(np.float32)
    y = (unit * (x[:, 0] - 2 * x[:, 1] ** 2) + offset).astype(np.float32)
    network = build_for("mlp:32", x, y, task="regression")
    history = quick(network, x, y, epochs=30)
    unexplained = evaluate(network, x, y).loss
    assert unexplained < 0.1
    assert history.metric == "mean absolute error"
    predicted = network.predict(x)["output"]
    assert predicted.shape == (400, 1)
    errors = predicted[:, 0].astype(np.float64) - y
    assert np.mean(errors**2) / np.var(y, dtype=np.float64) == pytest.approx(unexplained, rel=0.05)


def test_regression_with_several_outputs() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(300, 3)).astype(np.float32)
    y = x @ np.array([[1.0, 1000.0], [2.0, 0.0], [0.0, -500.0]], np.float32)
    network = build_for("mlp:16", x, y, task="regression")
    quick(network, x, y, epochs=30)
    assert evaluate(network, x, y).loss < 0.05


def test_the_same_seed_gives_the_same_weights_bit_for_bit() -> None:
    x, y = clusters()

    def trained(seed: int) -> Array:
        entry = Input("input", (6,))
        layers = [Linear(6, 16), ReLU(), Dropout(0.3), Linear(16, 3)]
        network = sequential(layers, entry, task="classification")
        network.initialize(np.random.default_rng(0))
        quick(network, x, y, seed=seed)
        return network.value

    np.testing.assert_array_equal(trained(3), trained(3))
    assert not np.array_equal(trained(3), trained(4))


def test_pruned_weights_stay_zero_after_a_step(rng: np.random.Generator) -> None:
    x, y = clusters()
    network = classifier()
    param = next(iter(network.params().values()))
    param.mask = (rng.random(param.value.shape) < 0.5).astype(np.float32)
    param.value *= param.mask
    before = param.value.copy()
    quick(network, x, y, epochs=1)
    assert np.all(param.value[param.mask == 0] == 0)
    assert np.all(param.value[param.mask == 1] != before[param.mask == 1])


def test_uint8_rows_train_like_the_same_rows_in_float(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (90, 1, 4, 4), dtype=np.uint8)
    y = (pixels.reshape(90, -1)[:, 0] > 127).astype(np.int64)
    raw, cast = (build_for("mlp:8", pixels, y, task="classification") for _ in range(2))
    quick(raw, pixels, y)
    quick(cast, pixels.astype(np.float32), y)
    np.testing.assert_array_equal(raw.value, cast.value)


def test_a_loss_of_ones_own_gets_named_targets_row_by_row() -> None:
    x, y = clusters()

    def towards_teacher(scores: Array, targets: Targets) -> tuple[float, Array]:
        assert isinstance(targets, Mapping)
        d = scores - targets["teacher"].T
        return float(np.mean(d**2)), 2 * d / d.size

    teacher = np.eye(3, dtype=np.float32)[y] * 5
    history = quick(
        classifier(), x, {"teacher": teacher, "labels": y}, loss=towards_teacher, epochs=15
    )
    assert history.best is not None
    assert history.best.validation_metric is not None
    assert history.best.validation_metric > 0.9
    unlabelled = quick(classifier(), x, {"teacher": teacher}, loss=towards_teacher)
    assert unlabelled.metric is None
    assert unlabelled.best_epoch is not None


def test_a_steady_step_allocates_nothing_large(rng: np.random.Generator) -> None:
    x = rng.normal(size=(1024, 64)).astype(np.float32)
    y = rng.integers(0, 10, 1024)
    network = build("mlp:256", input_shape=(64,), n_outputs=10, task="classification")
    peaks: list[int] = []

    def watch(network: Network, record: EpochRecord) -> None:
        now, peak = tracemalloc.get_traced_memory()
        peaks.append(peak - now)
        tracemalloc.reset_peak()

    tracemalloc.start()
    try:
        quick(network, x, y, epochs=4, batch_size=256, validation=None, callbacks=[watch])
    finally:
        tracemalloc.stop()
    # 64 kB is the promise for one array; an epoch's permutation of 1,024 rows is 8 kB.
    assert max(peaks[1:]) < 64 * 1024


# ----- validation, stopping, history


def test_the_best_epochs_weights_are_kept() -> None:
    x, y = clusters()
    seen: list[Array] = []
    network = classifier()
    history = quick(
        network,
        x,
        y,
        validation=(x[:50], y[:50]),
        epochs=8,
        optimizer=SGD(3.0),
        callbacks=[lambda net, record: seen.append(net.value.copy())],
    )
    ranks = [(r.validation_metric, -(r.validation_loss or 0)) for r in history.epochs]
    assert history.best_epoch == ranks.index(max(ranks)) + 1
    np.testing.assert_array_equal(network.value, seen[history.best_epoch - 1])
    checked = evaluate(network, x[:50], y[:50])
    assert history.best is not None
    assert (checked.metric, checked.loss) == (
        history.best.validation_metric,
        pytest.approx(history.best.validation_loss, rel=1e-6),
    )


def test_training_stops_when_patience_ends() -> None:
    x, y = clusters()
    history = quick(
        classifier(),
        x,
        y,
        epochs=50,
        optimizer=SGD(0.0),  # nothing improves
        early_stopping=EarlyStopping(patience=3),
    )
    assert (len(history.epochs), history.best_epoch) == (4, 1)
    assert history.ending == "no improvement"


def test_without_validation_the_last_weights_stay() -> None:
    x, y = clusters()
    history = quick(classifier(), x, y, validation=None)
    assert history.best_epoch is None
    assert history.best == history.epochs[-1]
    assert history.best.validation_loss is None


def test_ctrl_c_keeps_the_best_epoch() -> None:
    x, y = clusters()
    network = classifier()
    kept: list[Array] = []

    def interrupt(network: Network, record: EpochRecord) -> None:
        kept.append(network.value.copy())
        if record.epoch == 2:
            signal.raise_signal(signal.SIGINT)

    history = quick(network, x, y, epochs=50, callbacks=[interrupt])
    assert history.is_interrupted
    assert len(history.epochs) == 2
    assert history.best_epoch is not None
    np.testing.assert_array_equal(network.value, kept[history.best_epoch - 1])


def test_history_survives_json() -> None:
    x, y = clusters()
    history = quick(classifier(), x, y)
    assert History.from_json(history.to_json()) == history
    assert history.seconds > 0
    rates = [record.learning_rate for record in history.epochs]
    assert rates == sorted(rates, reverse=True)
    with pytest.raises(ModelFileError, match="history: "):
        History.from_json("{}x")


def test_a_constant_schedule_keeps_the_learning_rate() -> None:
    x, y = clusters()
    history = quick(classifier(), x, y, schedule=Constant())
    assert {record.learning_rate for record in history.epochs} == {0.01}


def test_few_rows_are_seen_more_often_by_default() -> None:
    x, y = clusters(64)
    assert len(fit(classifier(), x, y, progress=False).epochs) == 100


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_every_class_gives_its_share_to_validation(fraction: float) -> None:
    labels = np.repeat([0, 1, 2], [20, 100, 400])
    kept, apart = validation_split(520, fraction, seed=1, labels=labels)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, apart])), np.arange(520))
    shares = np.bincount(labels[apart]) - fraction * np.bincount(labels)
    assert np.abs(shares).max() <= 1
    again = validation_split(520, fraction, seed=1, labels=labels)[1]
    other = validation_split(520, fraction, seed=2, labels=labels)[1]
    np.testing.assert_array_equal(apart, again)
    assert not np.array_equal(apart, other)


def test_one_row_cannot_be_split() -> None:
    with pytest.raises(DataError, match="1 rows are too few"):
        validation_split(1, 0.1, seed=0)
    assert [len(part) for part in validation_split(2, 0.1, seed=0)] == [1, 1]


# ----- what goes wrong


@pytest.mark.parametrize("validation", [0.1, None])
def test_divergence_names_the_layer(validation: float | None) -> None:
    x, y = clusters()
    network = build("mlp:16,8", input_shape=(6,), n_outputs=3, task="classification")
    network.params()["linear_3.weight"].value[0, 0] = np.inf
    with pytest.raises(DivergenceError, match=r"became (nan|inf).*layer 'linear_3' \(Linear\)"):
        quick(network, x, y, validation=validation)


def test_divergence_by_the_learning_rate_says_so_and_keeps_the_best() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6)).astype(np.float32)
    y = x.sum(axis=1)
    network = build_for("mlp:16", x, y, task="regression")
    with pytest.raises(DivergenceError, match="try a learning rate below 100"):
        quick(network, x, y, optimizer=SGD(100.0), epochs=30)
    assert np.isfinite(network.value).all()


def test_a_loss_that_is_not_finite_is_told_apart_from_the_layers() -> None:
    x, y = clusters()
    with pytest.raises(DivergenceError, match="arose in the loss"):
        quick(classifier(), x, y, loss=lambda scores, targets: (float("nan"), scores))


X, Y = clusters(40)
BROKEN: dict[str, tuple[Array, Targets, str]] = {
    "no rows": (X[:0], Y[:0], "there are no rows"),
    "unequal": (X, Y[:-1], r"equally many, got \{'input': 40, 'labels': 39\}"),
    "wrong size": (X[:, :5], Y, r"rows have shape \(5,\), expected \(6,\)"),
    "label too high": (X, np.where(Y == 2, 7, Y), "class label 7, expected 0 to 2"),
    "label below": (X, Y - 1, "class label -1, expected 0 to 2"),
    "float labels": (X, Y.astype(np.float32), "dtype float32, expected integers"),
    "one class": (X, np.ones(40, np.int64), "every row has class 1: there is nothing"),
    "nan": (np.where(X[7, 2] == X, np.nan, X), Y, "input 'input': row 7 holds NaN"),
    "text": (X.astype(str), Y, "expected numbers"),
}


@pytest.mark.parametrize(("x", "y", "message"), BROKEN.values(), ids=BROKEN)
def test_rows_that_cannot_be_trained_on_are_refused(x: Array, y: Targets, message: str) -> None:
    with pytest.raises(DataError, match=message):
        quick(classifier(), x, y)


def test_class_names_stand_in_the_message() -> None:
    network = build(
        "mlp:4",
        input_shape=(6,),
        n_outputs=2,
        task="classification",
        class_labels=["cat", "dog"],
    )
    with pytest.raises(DataError, match=r"expected 0 to 1 \(cat, dog\); 12 rows"):
        quick(network, X, np.where(np.arange(40) < 28, 0, 2))
    with pytest.raises(DataError, match=r"class 1 \('dog'\)"):
        quick(network, X, np.ones(40, np.int64))


def test_nan_among_regression_targets_is_refused() -> None:
    y = np.full(40, np.nan, np.float32)
    network = build("mlp:4", input_shape=(6,), n_outputs=1, task="regression")
    with pytest.raises(DataError, match="row 0 holds NaN or infinity"):
        quick(network, X, y)
    with pytest.raises(DataError, match=r"shape \(40, 2\), expected \(rows, 1\)"):
        quick(network, X, np.zeros((40, 2), np.float32))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"epochs": 0}, ConfigError, "epochs is 0"),
        ({"batch_size": 0}, ConfigError, "batch_size is 0"),
        (
            {"validation": None, "early_stopping": EarlyStopping()},
            ConfigError,
            "needs validation rows",
        ),
        ({"validation": 1.0}, DataError, "validation share is 1.0"),
        ({"validation": (X[:0], Y[:0])}, DataError, "there are no rows"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    settings: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        quick(classifier(), X, Y, **settings)


def test_patience_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="patience is 0"):
        EarlyStopping(0)


def test_a_network_without_a_task_needs_a_loss() -> None:
    network = sequential([Linear(6, 3)], Input("input", (6,)))
    with pytest.raises(ConfigError, match="say which loss"):
        quick(network, X, Y)
