"""The examples run, say what they found, and leave networks to go on with."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from hlserve.nn import AdamW, build_for, fit, load, metrics

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("HLSERVE_SHARED", ROOT.parent / "shared"))

# Script; its data below SHARED/data; what it says; what --out names; the networks it leaves.
EXAMPLES = [
    (
        "finance_volatility.py",
        ["finance/vix-daily.csv"],
        ["network ", "The network (beats|does not beat) linear"],
        "volatility.safetensors",
        ["volatility.safetensors"],
    ),
    (
        "health_risk.py",
        ["breast-cancer", "heart-disease"],
        ["logistic regression ", "va left out", "ROC-AUC: the network is"],
        "",
        ["breast_cancer.safetensors", "heart_disease.safetensors"],
    ),
    (
        "images_fashion.py",
        ["fashion-mnist"],
        ["test accuracy .* of 10,000 pictures"],
        "cnn.safetensors",
        ["cnn.safetensors"],
    ),
    (
        "speech_digits.py",
        ["fsdd/recordings.zip"],
        ["test accuracy .* of 300 recordings"],
        "digits.safetensors",
        ["digits.safetensors"],
    ),
    (
        "text_sentiment.py",
        ["sentiment-uci"],
        ["fold +words +accuracy", "of 600 sentences"],
        "sentiment.safetensors",
        ["sentiment.safetensors"],
    ),
]


def require(*names: str) -> None:
    for name in names:
        if not (SHARED / "data" / name).exists():
            pytest.skip(f"no '{SHARED / 'data' / name}'; HLSERVE_SHARED names its root")


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"examples/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.mark.parametrize(("script", "data", "says", "out", "networks"), EXAMPLES)
def test_example_prints_its_table_and_leaves_networks(
    script: str,
    data: Sequence[str],
    says: Sequence[str],
    out: str,
    networks: Sequence[str],
    tmp_path: Path,
) -> None:
    require(*data)
    command = [sys.executable, "-W", "error", ROOT / "examples" / script, "--quick"]
    command += ["--out", tmp_path / out]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    for words in says:
        assert re.search(words, run.stdout), run.stdout
    for name in networks:
        network = load(tmp_path / name)
        assert np.isfinite(network.value).all()
        assert str(tmp_path / name) in run.stdout  # the command that goes on


def test_every_example_has_its_row_in_the_readme() -> None:
    text = (ROOT / "examples/README.md").read_text()
    for script in (ROOT / "examples").glob("*.py"):
        assert script.name in text


def days_file(path: Path, changes: np.ndarray) -> Path:
    """Prices of 250 days a year from 2001 on, in the form of the VIX file."""
    closes = 20 * np.exp(np.cumsum(changes))
    lines = ["DATE,OPEN,HIGH,LOW,CLOSE"]
    for i, close in enumerate(closes):
        numbers = ",".join(f"{close * factor:.6f}" for factor in (1.01, 1.03, 0.98, 1.0))
        lines.append(f"{2001 + i // 250}-01-01,{numbers}")
    path.write_text("\n".join(lines))
    return path


def test_features_of_a_day_are_those_of_a_loop_over_the_days_until_it(tmp_path: Path) -> None:
    example = module("finance_volatility")
    changes = np.random.default_rng(0).normal(0, 0.05, 600)
    x, y, year = example.read(days_file(tmp_path / "days.csv", changes))
    close = np.log(20) + np.cumsum(changes)
    assert len(x) == 600 - 251 - 1  # 252 days have a mean of 252 days, the last has no next day
    for row in (0, 7, len(x) - 1):
        day = row + 251
        until = close[: day + 1]
        expected = [
            until[-1],
            *(until[-1] - until[-size:].mean() for size in (5, 22, 66, 252)),
            *changes[day - 2 : day + 1],
            np.log(1.03 / 0.98),
            -np.log(1.01),
            changes[day - 21 : day + 1].std(),
        ]
        np.testing.assert_allclose(x[row], expected, atol=2e-6)  # float32, six decimals in the file
        assert y[row] == pytest.approx(changes[day + 1], abs=1e-6)
        assert year[row] == 2001 + (day + 1) // 250


def test_no_forecast_of_volatility_changes_with_the_days_that_follow(tmp_path: Path) -> None:
    example = module("finance_volatility")
    changes = np.random.default_rng(0).normal(0, 0.05, 1500)
    later = changes.copy()
    later[1250:] *= 3  # the year 2006
    found = []
    for name, values in (("a", changes), ("b", later)):
        days = example.read(days_file(tmp_path / name, values))
        forecasts, _ = example.walk(example.linear, example.SHRINKAGE, days, 2003)
        found.append(forecasts)
    is_before = days[2] < 2006
    first_day_of_2006 = int(is_before.sum())  # forecast on the last day before it
    np.testing.assert_array_equal(
        found[0][: first_day_of_2006 + 1], found[1][: first_day_of_2006 + 1]
    )
    assert np.any(found[0][first_day_of_2006 + 1 :] != found[1][first_day_of_2006 + 1 :])
    assert np.any(found[0][is_before & (days[2] >= 2003)] != 0)


def test_each_year_is_forecast_by_the_setting_that_was_best_before_it() -> None:
    example = module("finance_volatility")
    year = np.repeat([2001, 2002, 2003, 2004], 5)
    x, y = np.zeros((20, 1)), np.repeat([0.0, 1.0, 1.0, 0.0], 5)
    days = x, y, year
    forecasts, last = example.walk(
        lambda x, y, setting: lambda rows: np.full(len(rows), setting), (0.0, 1.0), days, 2002
    )
    # 2002 is the first that is judged, by the first setting; from then on 1 was better.
    np.testing.assert_array_equal(forecasts, np.repeat([0.0, 0.0, 1.0, 1.0], 5))
    assert last == 1.0


def test_linear_forecast_is_the_ridge_regression_of_scikit_learn() -> None:
    example = module("finance_volatility")
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (200, 11)).astype(np.float32)
    y = (x[:, 0] - x[:, 4] + rng.normal(0, 1, 200)).astype(np.float32)
    scaled = StandardScaler().fit(x)
    for n_features, shrinkage in ((11, 30.0), (3, 0.0)):
        theirs = Ridge(alpha=shrinkage).fit(scaled.transform(x)[:, :n_features], y)
        ours = example.linear(x, y, shrinkage, n_features)(x)
        # Both are exact but for sums in float32.
        np.testing.assert_allclose(
            ours, theirs.predict(scaled.transform(x)[:, :n_features]), atol=1e-5
        )


def test_ensemble_answers_the_mean_of_its_members() -> None:
    example = module("finance_volatility")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 11)).astype(np.float32)
    y = np.tanh(x[:, 0]).astype(np.float32)
    answers = []
    for seed in range(3):
        member = build_for("mlp:32,tanh", x, y[:, None], task="regression", seed=seed)
        optimizer = AdamW(weight_decay=1.0)
        size = {"epochs": 10, "batch_size": 128}
        fit(member, x, y, validation=None, optimizer=optimizer, seed=seed, progress=False, **size)
        answers.append(member.predict(x)["output"])
    assert np.std(answers, axis=0).max() > 0.01  # they differ
    mean = example.ensemble(x, y, 1.0, 3).predict(x)["output"]
    np.testing.assert_allclose(mean, np.mean(answers, axis=0), atol=1e-5)  # float32 sums of 96


def test_gain_is_the_share_by_which_the_error_is_smaller() -> None:
    example = module("finance_volatility")
    errors = np.random.default_rng(0).normal(size=500)
    np.testing.assert_allclose(example.gain(errors / 2, errors), [50, 50, 50])


def test_interval_of_a_gain_holds_the_truth_about_as_often_as_it_says() -> None:
    example = module("finance_volatility")
    rng = np.random.default_rng(0)
    intervals = [example.gain(*rng.normal(size=(2, 300))) for _ in range(100)]
    n_right = sum(low < 0 < high for _, low, high in intervals)  # both err alike
    # 95 are promised; few blocks give somewhat fewer, and 6 are three deviations of 100 throws.
    assert 86 <= n_right <= 100


def test_folds_spread_every_class_evenly() -> None:
    example = module("health_risk")
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1], [53, 17]))
    fold = example.folds(labels, 5, seed=1)
    for of_class in (0, 1):
        counts = np.bincount(fold[labels == of_class], minlength=5)
        assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(fold, example.folds(labels, 5, seed=1))
    assert np.any(fold != example.folds(labels, 5, seed=2))


def test_logistic_regression_is_as_good_as_that_of_scikit_learn_on_the_same_folds() -> None:
    example = module("health_risk")
    x, y = load_breast_cancer(return_X_y=True)
    x, y = x.astype(np.float32), 1 - y
    fold = example.folds(y, 5, seed=0)
    units, rate = example.MODELS["logistic regression"]
    ours, theirs = np.empty(len(y)), np.empty(len(y))
    for k in range(5):
        seen, tested = fold != k, fold == k
        network = example.trained((x[seen], y[seen], {}), units, rate, 0.1)
        ours[tested] = network.predict(x[tested])["probabilities"][:, 1]
        scaled = StandardScaler().fit(x[seen])
        model = LogisticRegression(C=1.0).fit(scaled.transform(x[seen]), y[seen])
        theirs[tested] = model.predict_proba(scaled.transform(x[tested]))[:, 1]
    # Both shrink, each in its way: measured 0.072 and 0.074, 0.019 and 0.019.
    assert metrics.log_loss(ours, y) < metrics.log_loss(theirs, y) + 0.005
    assert metrics.brier(ours, y) < metrics.brier(theirs, y) + 0.002
    assert metrics.roc_auc(ours, y) > metrics.roc_auc(theirs, y) - 0.002


def test_calibration_by_chance_covers_a_calibrated_model_and_not_another() -> None:
    example = module("health_risk")
    rng = np.random.default_rng(0)
    risks = rng.uniform(0.05, 0.95, (1, 400))
    y = (rng.random(400) < risks[0]).astype(np.int64)
    for given, is_calibrated in ((risks, True), (risks**3, False)):
        error, by_chance = map(float, re.findall(r"[.\d]+", example.calibration(given, y, rng)))
        assert (error < by_chance) is is_calibrated
