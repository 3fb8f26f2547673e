"""The risk of a disease from a table: a network with a hidden layer against logistic regression.

    python examples/health_risk.py

Logistic regression is the network without its hidden layer, trained alike. Filling of gaps,
categories and standardization are layers, fitted on the training rows of each fold; within these,
3 folds choose the weight decay by log loss. Learning rates and epochs were settled by one 5-fold
cross-validation of the same rows, which flatters both a little.
5-fold cross-validation by class is repeated three times; figures pool the folds and are means of
the three. Then three hospitals train and the fourth tests. Intervals are 95 %, by 1,000 bootstrap
draws of tested rows. ECE is the expected calibration error of 10 bins; few rows show one by
chance, and a perfectly calibrated model stays under the figure behind it 95 times in 100.

Data: Breast Cancer Wisconsin (Diagnostic), Wolberg, Street & Mangasarian, UCI 17; Heart Disease,
Janosi, Steinbrunn, Pfisterer & Detrano, UCI 45, disease or none. Both CC BY 4.0.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from tabulate import tabulate

from compress import export
from hlserve.nn import AdamW, Input, Network, evaluate, fit, metrics, save, sequential
from hlserve.nn.layers import Linear, ReLU, Softmax
from hlserve.nn.table import table_preprocessing

SHARED = Path(os.environ.get("HLSERVE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
# Of heart disease: sex, chest pain, blood sugar, ECG at rest, angina, slope of ST, thallium scan.
CATEGORIES = {1: [0, 1], 2: [1, 2, 3, 4], 5: [0, 1], 6: [0, 1, 2], 8: [0, 1], 10: [1, 2, 3]}
CATEGORIES |= {12: [3, 6, 7]}
MODELS = {"logistic regression": (0, 0.1), "network": (16, 0.02)}  # hidden units, learning rate
WEIGHT_DECAY, EPOCHS, DRAWS = (0.1, 0.3, 1.0, 3.0), 40, 1000
Array = np.ndarray
Table = tuple[Array, Array, dict[int, list[int]]]  # rows, 1 for disease, categories by column


def main() -> None:
    """Prints the table, saves both networks and runs them in ONNX Runtime."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED / "data", help="holds both folders")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--quick", action="store_true", help="once, one weight decay: only a try")
    args = parser.parse_args()
    repeats, decays = (1, (1.0,)) if args.quick else (3, WEIGHT_DECAY)
    cancer, heart, hospital = read(args.data)
    cleveland = heart[0][hospital == 0], heart[1][hospital == 0], CATEGORIES
    for name, table in (("breast cancer", cancer), ("heart disease, Cleveland", cleveland)):
        partitions = [folds(table[1], 5, seed) for seed in range(repeats)]
        report(f"{name}, 5-fold", table[1], answers(table, partitions, decays))
    elsewhere = answers(heart, [hospital], decays)
    for name, of in zip(HOSPITALS, np.arange(4)[:, None] == hospital, strict=True):
        report(f"heart disease, {name} left out", heart[1][of], elsewhere[:, :, of])
    args.out.mkdir(parents=True, exist_ok=True)
    for name, table in (("breast_cancer", cancer), ("heart_disease", heart)):
        network, path = chosen(table, *MODELS["network"], decays), args.out / f"{name}.safetensors"
        save(network, path)
        off = export.check_parity(network, export.to_onnx(network), table[0])
        print(f"\n{path}: ONNX Runtime on the {len(table[0])} raw rows is off by {off:.1g}")
        print(f"hlserve publish {path} --out models/{name}")


def read(folder: Path) -> tuple[Table, Table, Array]:
    """Breast cancer; heart disease, NaN where missing; and the hospital of the latter's rows."""
    nuclei = np.loadtxt(folder / "breast-cancer/breast_cancer.csv", delimiter=",", skiprows=1)
    paths = [folder / f"heart-disease/processed.{name}.data" for name in HOSPITALS]
    tables = [np.genfromtxt(path, delimiter=",", skip_header=1) for path in paths]
    hospital = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    findings = np.concatenate(tables)
    findings[:, 3:5][findings[:, 3:5] == 0] = np.nan  # no pressure or cholesterol is 0
    has = (nuclei[:, -1] == 0).astype(np.int64), (findings[:, -1] > 0).astype(np.int64)
    x = nuclei[:, :-1].astype(np.float32), findings[:, :-1].astype(np.float32)
    return (x[0], has[0], {}), (x[1], has[1], CATEGORIES), hospital


def folds(labels: Array, n: int, seed: int) -> Array:
    """The fold of every row, each class spread evenly."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.argsort(order[np.argsort(labels[order], kind="stable")]) % n


def answers(table: Table, partitions: list[Array], decays: tuple[float, ...]) -> Array:
    """What each model, trained on the other folds, says of a row: (models, partitions, rows)."""
    x, y, categories = table
    risks = np.empty((len(MODELS), len(partitions), len(y)))
    for i, (units, rate) in enumerate(MODELS.values()):
        for j, fold in enumerate(partitions):
            for k in range(fold.max() + 1):
                tested = fold == k
                seen = x[~tested], y[~tested], categories
                network = chosen(seen, units, rate, decays)
                risks[i, j, tested] = network.predict(x[tested])["probabilities"][:, 1]
    return risks


def chosen(table: Table, units: int, rate: float, decays: tuple[float, ...]) -> Network:
    """Trained on all rows, with the weight decay that did best on 3 folds of them."""
    x, y, categories = table
    fold, losses = folds(y, 3, 0), np.zeros(len(decays))
    for i, decay in enumerate(decays if len(decays) > 1 else ()):
        for k in range(3):
            seen = fold != k
            network = trained((x[seen], y[seen], categories), units, rate, decay)
            losses[i] += evaluate(network, x[~seen], y[~seen]).loss
    return trained(table, units, rate, decays[losses.argmin()])


def trained(table: Table, units: int, rate: float, decay: float) -> Network:
    """A network of raw rows; without hidden units it is logistic regression."""
    x, y, categories = table
    entry, layers = Input("input", x.shape[1:]), table_preprocessing(x, categories)
    width = sequential(layers, entry).predict(x[:1])["output"].shape[1]
    layers += [Linear(width, units), ReLU()] if units else []
    layers += [Linear(units or width, 2), Softmax()]
    network = sequential(layers, entry, output="probabilities", task="classification")
    network.initialize(np.random.default_rng(0))
    optimizer, size = AdamW(rate, weight_decay=decay), {"epochs": EPOCHS, "batch_size": 64}
    fit(network, x, y, validation=None, optimizer=optimizer, progress=False, **size)
    return network


def report(title: str, y: Array, risks: Array) -> None:
    """A row a model, what the network gains, and whether that is more than chance."""
    rng = np.random.default_rng(0)
    draws = [np.arange(len(y)), *rng.integers(len(y), size=(DRAWS, len(y)))]
    columns, verdicts = {"model": [*MODELS, "the network gains"]}, []
    for name, f, sign in (("ROC-AUC", metrics.roc_auc, 1), ("Brier score", metrics.brier, -1)):
        values = np.array([[np.mean([f(p[d], y[d]) for p in m]) for d in draws] for m in risks])
        values = np.array([*values, sign * (values[1] - values[0])])
        low, high = np.nanquantile(values[:, 1:], [0.025, 0.975], axis=1)  # NaN: a class alone
        columns[name] = map("{:.3f} [{:.3f}, {:.3f}]".format, values[:, 0], low, high)
        verdict = "better" if low[2] > 0 else "worse" if high[2] < 0 else "not surely different"
        verdicts.append(f"{name}: the network is {verdict}.")
    columns["ECE (by chance)"] = [calibration(m, y, rng) for m in risks]
    print(f"\n{title}: {len(y)} rows, {y.sum()} with the disease")
    print(tabulate(columns, "keys"), *verdicts, sep="\n")


def calibration(risks: Array, y: Array, rng: np.random.Generator) -> str:
    """The calibration error, and what it stays under by chance where every risk is true."""
    error, happened = metrics.expected_calibration_error, rng.random((DRAWS, len(y))) < risks[0]
    by_chance = np.quantile([error(risks[0], h.astype(np.int64), 10) for h in happened], 0.95)
    return f"{np.mean([error(p, y, 10) for p in risks]):.3f} ({by_chance:.3f})"


if __name__ == "__main__":
    main()
