"""Makes the two sets of data that the package embeds, bit for bit the same every time.

    python tools/make_embedded_datasets.py DIGITS_CSV_GZ FASHION_MNIST_FOLDER

DIGITS_CSV_GZ is scikit-learn's ``digits.csv.gz``: 1,797 lines of 64 pixels 0..16 and the digit.
FASHION_MNIST_FOLDER holds the four files of Fashion-MNIST. Beside each ``.npz`` its licence stands.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hlserve.datasets import Rows, load

EMBEDDED = Path(__file__).resolve().parent.parent / "hlserve" / "datasets" / "embedded"
SEED = 20170825  # the day Fashion-MNIST was published
DIGITS_TRAIN = 1400


def main(digits_csv_gz: str, fashion_folder: str) -> None:
    """Writes both archives and says their sizes."""
    _save("digits", *_split_digits(Path(digits_csv_gz)))
    fashion = load(Path(fashion_folder))
    if fashion.test is None:
        raise SystemExit(f"'{fashion_folder}' holds no test part")
    train = _stratified(fashion.train, per_class=500)
    _save("fashion-mini", train, _stratified(fashion.test, per_class=100))


def _split_digits(path: Path) -> tuple[Rows, Rows]:
    table = np.loadtxt(path, delimiter=",", dtype=np.int64)
    table = table[np.random.default_rng(SEED).permutation(len(table))]
    images = table[:, :-1].astype(np.uint8).reshape(-1, 1, 8, 8)
    rows = Rows({"x": images}, table[:, -1])
    return rows.take(slice(DIGITS_TRAIN)), rows.take(slice(DIGITS_TRAIN, None))


def _stratified(rows: Rows, per_class: int) -> Rows:
    """This many rows of every class, all shuffled."""
    if rows.y is None:
        raise SystemExit("expected labels")
    rng = np.random.default_rng(SEED)
    chosen: list[NDArray[np.int64]] = [
        rng.choice(np.flatnonzero(rows.y == number), per_class, replace=False)
        for number in np.unique(rows.y)
    ]
    return rows.take(rng.permutation(np.concatenate(chosen)))


def _save(name: str, train: Rows, test: Rows) -> None:
    path = EMBEDDED / f"{name}.npz"
    arrays = {"x": train.x, "y": train.y, "x_test": test.x, "y_test": test.y}
    small = {key: np.asarray(array, dtype=np.uint8) for key, array in arrays.items()}
    np.savez_compressed(path, **small)
    print(f"{path}: {len(train)} + {len(test)} rows, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
