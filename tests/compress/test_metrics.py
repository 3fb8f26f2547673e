"""Metrics against scikit-learn, their drops and intervals by simulation, and a user's own."""

import warnings

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from compress.bound import contribution_interval, drop, parse_max_drop
from compress.evaluate import Judge
from compress.metric import ACCURACY, AGREEMENT, F1, METRICS, MSE, ROC_AUC, metric_named
from hlserve.errors import ConfigError, DataError
from hlserve.nn.metrics import wilson_interval

EXACT = 1e-12  # sums of some hundred float64 in another order


def softmax(scores):
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def answered(n, n_classes, rng, *, separation=2.0, spoilt=0.0, turned=0.0, noise=0.0):
    """Labels, the original's probabilities, and a candidate's.

    Some of the candidate's rows are spoilt, which is answered by lot, or turned to another class.
    """
    y = rng.choice(n, size=n) % n_classes
    scores = rng.normal(size=(n, n_classes))
    scores[np.arange(n), y] += separation
    after = scores + noise * rng.normal(size=scores.shape)
    is_spoilt = rng.random(n) < spoilt
    after[is_spoilt] = 2 * rng.normal(size=(is_spoilt.sum(), n_classes))
    is_turned = rng.random(n) < turned
    after[is_turned] = np.roll(scores[is_turned], 1, axis=1)
    return y, softmax(scores), softmax(after)


def value(metric, outputs, labels):
    return Judge("y", 0, metric).value(outputs, labels)


# ----- values


@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_f1_and_roc_auc_are_those_of_scikit_learn(n_classes, dtype, rng):
    y, outputs, _ = answered(300, n_classes, rng, separation=1.0)
    outputs = outputs.astype(dtype)
    said = outputs.argmax(axis=1)
    average = "binary" if n_classes == 2 else "macro"
    assert value(F1, outputs, y) == pytest.approx(f1_score(y, said, average=average), abs=EXACT)
    if n_classes == 2:
        expected = roc_auc_score(y, outputs[:, 1].astype(np.float64) - outputs[:, 0])
    else:
        expected = np.mean([roc_auc_score(y == c, outputs[:, c]) for c in range(n_classes)])
    assert value(ROC_AUC, outputs, y) == pytest.approx(expected, abs=EXACT)
    if n_classes > 2 and dtype is np.float64:
        ovr = roc_auc_score(y, outputs, multi_class="ovr", average="macro")
        assert value(ROC_AUC, outputs, y) == pytest.approx(ovr, abs=EXACT)


@pytest.mark.parametrize("shape", [(200,), (200, 1)])
def test_one_column_is_the_probability_of_class_1(shape, rng):
    y, outputs, _ = answered(200, 2, rng, separation=1.0)
    p = outputs[:, 1].reshape(shape)
    assert value(F1, p, y) == pytest.approx(f1_score(y, outputs[:, 1] > 0.5), abs=EXACT)
    assert value(ROC_AUC, p, y) == pytest.approx(roc_auc_score(y, outputs[:, 1]), abs=EXACT)


def test_several_labels_a_row_are_averaged(rng):
    y = rng.integers(0, 2, (150, 4))
    p = np.clip(0.5 * y + rng.uniform(0, 0.7, y.shape), 0, 1)
    macro = f1_score(y, p > 0.5, average="macro")
    assert value(F1, p, y) == pytest.approx(macro, abs=EXACT)
    assert value(ROC_AUC, p, y) == pytest.approx(roc_auc_score(y, p), abs=EXACT)


def test_f1_counts_every_position_of_a_row(rng):
    y = rng.integers(0, 3, (40, 9))
    scores = rng.normal(size=(40, 9, 3)) + np.eye(3)[y]
    expected = f1_score(y.ravel(), scores.argmax(axis=-1).ravel(), average="macro")
    assert value(F1, scores, y) == pytest.approx(expected, abs=EXACT)


def test_roc_auc_of_logits_is_that_of_their_softmax_and_ties_count_a_half(rng):
    y = rng.integers(0, 3, 120)
    logits = np.round(rng.normal(size=(120, 3)) + np.eye(3)[y])
    probabilities = softmax(logits)
    expected = np.mean([roc_auc_score(y == c, probabilities[:, c]) for c in range(3)])
    assert value(ROC_AUC, logits, y) == pytest.approx(expected, abs=EXACT)
    assert value(ROC_AUC, np.full((120, 3), 1 / 3), y) == 0.5


def test_a_class_that_no_row_has_takes_no_share_of_f1_nor_of_roc_auc(rng):
    y, outputs, _ = answered(200, 4, rng)
    y[y == 3] = 0
    said = outputs.argmax(axis=1)
    assert (said == 3).any()
    expected = f1_score(y, said, labels=[0, 1, 2], average="macro")
    assert value(F1, outputs, y) == pytest.approx(expected, abs=EXACT)
    columns = [roc_auc_score(y == c, outputs[:, c]) for c in range(3)]
    assert value(ROC_AUC, outputs, y) == pytest.approx(np.mean(columns), abs=EXACT)


@pytest.mark.parametrize("metric", [F1, ROC_AUC], ids=lambda m: m.name)
def test_contributions_are_the_metric_to_first_order(metric, rng):
    """Leaving a row out changes the metric by its influence over n, less terms of 1 / n^2."""
    y, outputs, _ = answered(200, 3, rng)
    per_row = metric.per_row(outputs, y)
    whole = per_row.mean()
    for row in range(0, 200, 7):
        rest = np.delete(np.arange(200), row)
        moved = whole - metric.per_row(outputs[rest], y[rest]).mean()
        assert moved == pytest.approx((per_row[row] - whole) / 199, abs=20 / 200**2)


@pytest.mark.parametrize(("metric", "most"), [(F1, 1.0), (ROC_AUC, 2.0)], ids=["f1", "roc_auc"])
def test_no_row_costs_more_than_the_row_cost(metric, most, rng):
    y, outputs, _ = answered(120, 3, rng, separation=4.0)
    cost = metric.row_cost(outputs, y) / 120
    lost = []
    for row in range(0, 120, 5):
        for wrong in np.eye(3):
            spoilt = outputs.copy()
            spoilt[row] = wrong
            lost.append(value(metric, outputs, y) - value(metric, spoilt, y))
    # The cost is of first order, the rest is of 1 / n^2; of ROC AUC it is half of the most.
    assert 0.5 * most * cost < max(lost) <= 1.05 * most * cost


# ----- drops and intervals


@pytest.mark.parametrize("metric", [F1, ROC_AUC], ids=lambda m: m.name)
@pytest.mark.parametrize(
    ("n_classes", "rows", "change"),
    [
        (2, 100, {"spoilt": 0.01}),
        (2, 400, {"noise": 0.3}),
        (2, 400, {"turned": 0.01}),
        (4, 400, {"spoilt": 0.02, "noise": 0.1}),
        (10, 600, {"turned": 0.03}),
    ],
)
def test_bounds_of_a_drop_cover_the_true_drop(metric, n_classes, rows, change):
    options = {**change, "separation": 3.0}
    y, before, after = answered(60_000, n_classes, np.random.default_rng(1), **options)
    true_drop = value(metric, before, y) - value(metric, after, y)
    judge, uppers = Judge("y", 0, metric), []
    for seed in range(200):
        y, before, after = answered(rows, n_classes, np.random.default_rng(100 + seed), **options)
        uppers.append(judge.drop(before, after, y).upper)
    # nominal 0.95, less three standard errors of 200 draws, 0.046
    assert np.mean(np.array(uppers) >= true_drop) >= 0.90


def test_delong_alone_would_miss_rare_spoilt_rows():
    """Why the bound of the ROC AUC counts rows that were not seen."""
    options = {"spoilt": 0.01, "separation": 3.0}
    y, before, after = answered(60_000, 2, np.random.default_rng(1), **options)
    true_drop = value(ROC_AUC, before, y) - value(ROC_AUC, after, y)
    found = []
    for seed in range(200):
        y, before, after = answered(100, 2, np.random.default_rng(100 + seed), **options)
        values = [ROC_AUC.per_row(p, y) for p in (before, after)]
        found.append(drop(ROC_AUC, *values, row_cost=0.0).upper >= true_drop)
    assert np.mean(found) < 0.8


@pytest.mark.parametrize("metric", [F1, ROC_AUC], ids=lambda m: m.name)
@pytest.mark.parametrize(("n_classes", "rows"), [(2, 100), (3, 300)])
def test_intervals_cover_the_true_value(metric, n_classes, rows):
    y, outputs, _ = answered(60_000, n_classes, np.random.default_rng(1), separation=1.5)
    true_value, judge = value(metric, outputs, y), Judge("y", 0, metric)
    is_covered = []
    for seed in range(200):
        y, outputs, _ = answered(rows, n_classes, np.random.default_rng(seed), separation=1.5)
        low, high = judge.interval(outputs, y)
        is_covered.append(low <= true_value <= high)
    assert np.mean(is_covered) >= 0.90  # as above


def test_the_spread_of_roc_auc_is_delongs(rng):
    """DeLong's variance, S10 / m + S01 / n, by the naive double loop of the paper."""
    y, before, after = answered(150, 2, rng, separation=1.0, noise=0.5)
    inside, outside = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    components = []
    for p in (before[:, 1], after[:, 1]):
        psi = np.sign(p[inside][:, None] - p[outside][None]) / 2 + 0.5
        components.append((psi.mean(axis=1), psi.mean(axis=0)))
    v10 = components[0][0] - components[1][0]
    v01 = components[0][1] - components[1][1]
    delong = np.var(v10, ddof=1) / len(inside) + np.var(v01, ddof=1) / len(outside)
    losses = ROC_AUC.per_row(before, y) - ROC_AUC.per_row(after, y)
    assert losses.mean() == pytest.approx(v10.mean(), abs=EXACT)
    # ours divides by n - 1 of all rows, DeLong by those of each class
    assert np.var(losses, ddof=1) / 150 == pytest.approx(delong, rel=0.02)


def test_the_interval_of_a_share_is_wilsons(rng):
    y, outputs, _ = answered(80, 3, rng)
    right = int(np.sum(outputs.argmax(axis=1) == y))
    assert Judge("y", 0, ACCURACY).interval(outputs, y) == wilson_interval(right, 80)


def test_an_interval_of_perfect_answers_still_has_a_width():
    low, high = contribution_interval(np.ones(50), 2.0)
    assert 0.8 < low < 0.9
    assert high == 1.0
    assert contribution_interval(np.ones(1), 2.0) == (0.0, 1.0)


@pytest.mark.parametrize("metric", [F1, ROC_AUC, ACCURACY, AGREEMENT], ids=lambda m: m.name)
def test_answers_that_did_not_change_prove_no_less_than_the_rows_can(metric, rng):
    y, outputs, _ = answered(1000, 2, rng)
    judge = Judge("y", 0, metric)
    targets = y if metric.needs_labels else outputs
    least = judge.smallest_provable(outputs, targets)
    assert judge.drop(outputs, outputs, targets).upper == least
    assert 0.002 < least < 0.01
    assert judge.smallest_provable(outputs, targets, comparisons=20) > least
    assert Judge("y", 0, MSE).smallest_provable(outputs, outputs) is None


# ----- names


def test_metrics_are_found_by_their_names_and_shares_take_points():
    for metric in METRICS:
        assert metric_named(metric.name) is metric
    assert metric_named("roc-auc") is ROC_AUC
    assert parse_max_drop("0.5pp", F1) == 0.005
    with pytest.raises(ConfigError, match=r"no metric 'fame'; there are accuracy, f1, .*module:"):
        metric_named("fame")


def test_what_cannot_be_ranked_is_refused(rng):
    with pytest.raises(DataError, match="ranks rows by their scores, and the output holds int64"):
        value(ROC_AUC, rng.integers(0, 2, 20), rng.integers(0, 2, 20))
    with pytest.raises(DataError, match="all labels are alike"):
        value(ROC_AUC, rng.random((20, 2)), np.ones(20, np.int64))


# ----- the user's own

OWN = """
import numpy as np

def error(outputs, labels):
    return np.mean(outputs.argmax(axis=1) != labels)

error.higher_is_better = False

def share(outputs, labels):
    return np.mean(outputs.argmax(axis=1) == labels)

def balanced(outputs, labels):
    said = outputs.argmax(axis=1)
    return np.mean([np.mean(said[labels == c] == c) for c in range(outputs.shape[1])])

def raises(outputs, labels):
    raise KeyError("no such column")

def text(outputs, labels):
    return "good"

def nothing(outputs, labels):
    return float("nan")

number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's in the current folder."""
    (tmp_path / "own_metrics.py").write_text(OWN)
    (tmp_path / "broken_metrics.py").write_text("import no_such_thing\n")
    (tmp_path / "failing_metrics.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    yield
    import sys

    sys.modules.pop("own_metrics", None)


def test_a_function_of_the_users_is_a_metric(own, rng):
    y, before, after = answered(300, 3, rng, spoilt=0.1)
    share = Judge("y", 0, metric_named("own_metrics:share"))
    error = Judge("y", 0, metric_named("own_metrics:error"))
    assert share.value(before, y) == value(ACCURACY, before, y)
    assert share.metric.higher_is_better
    assert not error.metric.higher_is_better
    expected = value(ACCURACY, before, y) - value(ACCURACY, after, y)
    for judge in (share, error):
        found = judge.drop(before, after, y)
        assert found.estimate == pytest.approx(expected)
        assert found.upper > found.estimate
        assert found == judge.drop(before, after, y)  # the same resamples
    low, high = share.interval(before, y)
    assert np.allclose((low, high), Judge("y", 0, ACCURACY).interval(before, y), atol=0.02)
    assert share.smallest_provable(before, y) > 0.003


def test_the_bootstrap_bound_is_near_the_exact_one_and_covers(own):
    """A share by the bootstrap, against the score bound, from no changed row to many."""
    share = Judge("y", 0, metric_named("own_metrics:share"))
    options = {"spoilt": 0.03, "separation": 3.0}
    y, before, after = answered(60_000, 3, np.random.default_rng(1), **options)
    true_drop = value(ACCURACY, before, y) - value(ACCURACY, after, y)
    is_covered = []
    for seed in range(30):
        y, before, after = answered(150, 3, np.random.default_rng(seed), **options)
        ours = share.drop(before, after, y).upper
        exact = Judge("y", 0, ACCURACY).drop(before, after, y).upper
        assert exact - 0.005 < ours < 1.5 * exact + 0.01
        is_covered.append(ours >= true_drop)
    assert np.mean(is_covered) >= 0.9


def test_no_resample_lacks_a_class(own, rng):
    """Were one lacking, the mean of no rows would be NaN, with a warning."""
    y, before, after = answered(60, 3, rng)
    y[:] = 0
    y[:2], y[2:4] = 1, 2
    judge = Judge("y", 0, metric_named("own_metrics:balanced"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(judge.drop(before, after, y).upper)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", r"own_metrics:raises on 20 outputs and 20 labels raised KeyError: 'no such"),
        ("text", "answered 'good' .str., expected a number"),
        ("nothing", "answered nan, expected a finite number"),
    ],
)
def test_a_metric_that_fails_says_on_what(own, rng, name, message):
    judge = Judge("y", 0, metric_named(f"own_metrics:{name}"))
    with pytest.raises(DataError, match=message):
        judge.value(rng.random((20, 2)), rng.integers(0, 2, 20))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_metrics:", "expected module:function"),
        ("../x:f", "expected module:function"),
        ("own_metrics:absent", "holds no function of that name"),
        ("own_metrics:number", "holds 'number' but no function"),
        ("no_such_module:f", "there is no module 'no_such_module' in /"),
        ("own_metrics.sub:f", "there is no module 'own_metrics.sub' in /"),
        ("broken_metrics:f", "importing 'broken_metrics': No module named 'no_such_thing'"),
        ("failing_metrics:f", "raised ZeroDivisionError: division by zero"),
    ],
)
def test_a_function_that_is_not_there_is_refused(own, name, message):
    with pytest.raises(ConfigError, match=message):
        metric_named(name)


def test_a_function_of_the_users_has_no_value_a_row(own, rng):
    judge = Judge("y", 0, metric_named("own_metrics:share"))
    with pytest.raises(ConfigError, match="with no value a row"):
        judge.per_row(rng.random((20, 2)), rng.integers(0, 2, 20))
