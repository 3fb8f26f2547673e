"""The estimators: scikit-learn's own checks, and its tools around them."""

import copy
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, make_friedman1, make_moons
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import estimator_checks_generator

from hlserve.errors import ConfigError, DataError
from hlserve.nn import checkpoint
from hlserve.nn.estimator import NetworkClassifier, NetworkRegressor

Estimator = NetworkClassifier | NetworkRegressor

# Seldom enough epochs to be quick; more are learnt in the tests below.
SMALL = (NetworkClassifier("mlp:16", epochs=30), NetworkRegressor("mlp:16", epochs=30))
STEPS = "a row that stands twice is met in two steps, and moves the columns' mean and spread"
EXPECTED_FAILURES = {"check_sample_weight_equivalence_on_dense_data": STEPS}


def checks() -> list[object]:
    with warnings.catch_warnings():  # they would like a class of their own as the base
        warnings.simplefilter("ignore", UserWarning)
        return [
            pytest.param(
                *parameters,
                marks=marks,
                id=f"{type(estimator).__name__}-{check_name(parameters[1])}",
            )
            for estimator in SMALL
            for parameters, marks in map(unpacked, checks_of(estimator))
        ]


def checks_of(estimator: Estimator) -> list[object]:
    return list(
        estimator_checks_generator(
            estimator, expected_failed_checks=EXPECTED_FAILURES, mark="xfail"
        )
    )


def unpacked(entry: object) -> tuple[tuple[object, object], tuple[object, ...]]:
    if isinstance(entry, tuple) and hasattr(entry, "marks"):
        return entry.values, tuple(entry.marks)
    return entry, ()


def check_name(check: object) -> str:
    return getattr(check, "func", check).__name__


@pytest.mark.filterwarnings("ignore:Estimator .* does not inherit from:UserWarning")
@pytest.mark.parametrize(("estimator", "check"), checks())
def test_scikit_learn_finds_nothing_amiss(
    estimator: Estimator, check: Callable[[Estimator], None]
) -> None:
    check(estimator)


def test_a_pipeline_is_searched_and_cross_validated() -> None:
    x, y = make_moons(300, noise=0.2, random_state=0)
    pipeline = make_pipeline(FunctionTransformer(np.square), NetworkClassifier("mlp:4", epochs=5))
    search = GridSearchCV(
        pipeline, {"networkclassifier__architecture": ["mlp:4", "mlp:32"]}, cv=3
    ).fit(x, y)
    assert search.best_estimator_[-1].network_.n_parameters in (22, 162)
    plain = NetworkClassifier("mlp:32", learning_rate=0.01)
    scores = cross_val_score(plain, x, y, cv=5)
    linear = cross_val_score(LogisticRegression(), x, y, cv=5)
    assert scores.mean() > linear.mean() + 0.04  # moons bend


def test_numbers_that_bend_are_learnt_better_than_by_a_line() -> None:
    x, y = make_friedman1(400, noise=0.5, random_state=0)
    scores = cross_val_score(NetworkRegressor("mlp:100", learning_rate=0.02), x, y, cv=3)
    linear = cross_val_score(LinearRegression(), x, y, cv=3)
    assert scores.mean() > linear.mean() + 0.05  # 0.11 ahead when this was written


def test_scores_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    x, y = load_breast_cancer(return_X_y=True)
    weights = rng.uniform(0, 1, len(y))
    classifier = NetworkClassifier("mlp:4", epochs=2).fit(x, y)
    predicted = classifier.predict(x)
    assert classifier.score(x, y) == pytest.approx(accuracy_score(y, predicted))
    expected = accuracy_score(y, predicted, sample_weight=weights)
    assert classifier.score(x, y, weights) == pytest.approx(expected)
    numbers = x[:, :2]
    regressor = NetworkRegressor("mlp:4", epochs=2).fit(x, numbers)
    predicted = regressor.predict(x)
    assert predicted.shape == numbers.shape
    assert regressor.score(x, numbers) == pytest.approx(r2_score(numbers, predicted))
    expected = r2_score(numbers, predicted, sample_weight=weights)
    assert regressor.score(x, numbers, weights) == pytest.approx(expected)
    constant = np.full_like(numbers, 0.1)
    assert np.isnan(regressor.score(x, constant))
    assert np.isnan(regressor.score(x, constant, weights))


# ----- copies


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))], ids=["deepcopy", "pickle"]
)
def test_a_copy_answers_alike_and_can_go_on_learning(
    copied: Callable[[NetworkClassifier], NetworkClassifier],
) -> None:
    x, y = make_moons(60, random_state=0)
    fitted = NetworkClassifier("mlp:4", epochs=3).fit(x, y)
    other = copied(fitted)
    np.testing.assert_array_equal(other.predict_proba(x), fitted.predict_proba(x))
    other.network_.value[:] = 0  # one vector holds all parameters, in the copy too
    assert np.ptp(other.predict_proba(x)) == 0
    assert np.ptp(fitted.predict_proba(x)) > 0


def test_a_clone_is_untrained_and_learns_the_same() -> None:
    x, y = make_moons(60, random_state=0)
    fitted = NetworkClassifier("mlp:4", epochs=3, class_weight={0: 2.0}, random_state=7).fit(x, y)
    other = clone(fitted)
    assert other.get_params() == fitted.get_params()
    assert not hasattr(other, "network_")
    np.testing.assert_array_equal(other.fit(x, y).network_.value, fitted.network_.value)


def test_the_network_is_one_to_save(tmp_path: Path) -> None:
    x, y = make_moons(60, random_state=0)
    labels = np.array(["no", "yes"])[y]
    fitted = NetworkClassifier("mlp:4,tanh,dropout=0.1", epochs=3).fit(x, labels)
    checkpoint.save(fitted.network_, tmp_path / "moons.safetensors")
    loaded = checkpoint.load(tmp_path / "moons.safetensors")
    assert loaded.class_labels == ("no", "yes")
    np.testing.assert_array_equal(loaded.predict(x)["probabilities"], fitted.predict_proba(x))


# ----- parameters


def test_a_class_weight_is_a_weight_of_its_rows() -> None:
    x, y = make_moons(90, random_state=0)
    y[: len(y) // 2] = 0
    counts = np.bincount(y)
    balanced = len(y) / (2 * counts[y])
    by_label = {0: len(y) / (2 * counts[0]), 1: len(y) / (2 * counts[1])}
    plain = NetworkClassifier("mlp:4", epochs=3)
    trained = [
        clone(plain).fit(x, y, sample_weight=balanced),
        clone(plain).set_params(class_weight="balanced").fit(x, y),
        clone(plain).set_params(class_weight=by_label).fit(x, y),
        clone(plain).set_params(class_weight=by_label).fit(x, y, sample_weight=np.ones(len(y))),
    ]
    first, *others = (estimator.predict_proba(x) for estimator in trained)
    for other in others:
        np.testing.assert_array_equal(other, first)
    assert not np.array_equal(first, clone(plain).fit(x, y).predict_proba(x))


def test_patience_ends_a_training_early() -> None:
    x = np.random.default_rng(0).normal(size=(200, 5))
    noise = np.arange(200) % 2
    fitted = NetworkClassifier("mlp:32", epochs=1000, patience=3).fit(x, noise)
    assert len(fitted.history_.epochs) < 1000
    assert fitted.history_.ending == "no improvement"


def test_without_validation_the_last_epoch_stays() -> None:
    x, y = make_moons(60, random_state=0)
    for fraction in (0, None):
        fitted = NetworkClassifier("mlp:4", epochs=3, validation_fraction=fraction).fit(x, y)
        assert fitted.history_.best_epoch is None


def test_a_seed_repeats_a_training_and_none_does_not() -> None:
    x, y = make_moons(60, random_state=0)

    def trained(random_state: object) -> np.ndarray:
        return NetworkRegressor("mlp:4", epochs=1, random_state=random_state).fit(x, y).predict(x)

    np.testing.assert_array_equal(trained(3), trained(3))
    states = (np.random.RandomState(3), np.random.RandomState(3))
    np.testing.assert_array_equal(*map(trained, states))
    assert not np.array_equal(trained(None), trained(None))


def test_images_go_through_convolutions() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 80)
    x = (rng.integers(0, 99, (80, 1, 8, 8)) + 100 * y[:, None, None, None]).astype(np.uint8)
    assert NetworkClassifier("cnn:4/8", epochs=40).fit(x, y).score(x, y) > 0.95


# ----- names of columns


class Frame:
    """What a data frame is to an estimator: columns with names, and an array."""

    def __init__(self, columns: list[str], values: np.ndarray) -> None:
        self.columns = columns
        self.values = values

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return self.values


def test_names_of_columns_are_remembered_and_must_be_the_same() -> None:
    x, y = make_moons(60, random_state=0)
    fitted = NetworkClassifier("mlp:4", epochs=1).fit(Frame(["a", "b"], x), y)
    assert fitted.feature_names_in_.tolist() == ["a", "b"]
    np.testing.assert_array_equal(fitted.predict(Frame(["a", "b"], x)).shape, (60,))
    with pytest.raises(DataError, match=r"expected \['a', 'b'\], got \['b', 'a'\]"):
        fitted.predict(Frame(["b", "a"], x))
    with pytest.warns(UserWarning, match="was fitted with feature names"):
        fitted.predict(x)
    fitted.fit(x, y)
    assert not hasattr(fitted, "feature_names_in_")
    with pytest.warns(UserWarning, match="was fitted without feature names"):
        fitted.predict(Frame(["a", "b"], x))


# ----- what goes wrong


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((4, 2)), np.zeros(4), "y has only one class"),
        (np.zeros((4, 2)), np.array([0.5, 1, 2, 3]), "Unknown label type: continuous"),
        (np.zeros((4, 2)), np.zeros(3), r"X has 4 rows, y has shape \(3,\)"),
        (np.zeros((4, 2)), np.zeros((4, 2)), "expected one label a row"),
        (np.full((4, 2), np.nan), np.arange(4), "X holds NaN or infinity"),
        (np.zeros(4), np.arange(4), "Reshape your data"),
    ],
)
def test_unusable_rows_are_told(x: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        NetworkClassifier("mlp:4", epochs=1).fit(x, y)


def test_a_weight_of_a_class_that_a_fold_lacks_changes_nothing() -> None:
    x, y = make_moons(40, random_state=0)
    weights = [{0: 2.0, 1: 1.0}, {0: 2.0, 1: 1.0, 2: 9.0}, {0: 2.0}]
    answers = [
        NetworkClassifier("mlp:4", epochs=2, class_weight=w).fit(x, y).predict_proba(x)
        for w in weights
    ]
    for other in answers[1:]:
        np.testing.assert_array_equal(other, answers[0])


def test_unusable_parameters_are_told() -> None:
    x, y = make_moons(20, random_state=0)
    with pytest.raises(ConfigError, match="no parameter 'hidden'; there are architecture, epochs"):
        NetworkClassifier().set_params(hidden=3)
    with pytest.raises(ConfigError, match="class_weight is 'even'"):
        NetworkClassifier("mlp:4", class_weight="even").fit(x, y)
    with pytest.raises(ConfigError, match=r"class_weight names \['1'\], which y .* not \[0, 1\]"):
        NetworkClassifier("mlp:4", class_weight={"1": 5.0}).fit(x, y)
    with pytest.raises(ConfigError, match="unknown architecture 'forest'"):
        NetworkRegressor("forest").fit(x, y)


def test_scikit_learn_is_neither_loaded_nor_needed() -> None:
    program = """
import sys
import numpy as np
from hlserve.errors import ConfigError, MissingDependencyError
from hlserve.nn.estimator import NetworkClassifier

x, y = np.eye(6), np.arange(6) % 2
for call, error in (
    (lambda: NetworkClassifier().predict(x), ConfigError),
    (lambda: NetworkClassifier().__sklearn_tags__(), MissingDependencyError),
):
    try:
        call()
    except error:
        continue
    raise SystemExit("no error")
NetworkClassifier("mlp:4", epochs=1).fit(x, y).predict(x)
assert "sklearn" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
