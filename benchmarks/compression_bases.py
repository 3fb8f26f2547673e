"""Makes the rows and the float networks that the compression benchmarks start from.

    PYTHONPATH=. .venv/bin/python -m benchmarks.compression_bases
    PYTHONPATH=. .venv/bin/python -m benchmarks.compression_bases --models resnet8-fashion

The 60,000 official training rows become 50,000 to train on and 10,000 to choose with, class by
class; the official test rows stay as they are, for the benchmark's table alone. Everything lies
in ``runs/bench``: ``data/mnist-train.npz`` (``-validation``, ``-test``) and
``bases/NAME.safetensors``. What is there already is left as it is; an interrupted training goes on.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hlserve.datasets import Dataset, Rows, load
from hlserve.nn import AdamW, Augment, Network, StateFile, build_for, evaluate, fit
from hlserve.nn.checkpoint import load as load_network
from hlserve.nn.checkpoint import save
from hlserve.nn.split import validation_split

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("HLSERVE_SHARED", ROOT / "../shared"))
CACHE = ROOT / "runs" / "bench"
PARTS = ("train", "validation", "test")
SEED = 0


@dataclass(frozen=True, slots=True)
class Base:
    """A float network, and how it is trained.

    Attributes:
        name: what its files are called.
        data: the folder below ``../shared/data``.
        weight_decay: AdamW's; the wider the network, the more of it helps.
        trained_as: the same network with dropout, which is left out once it is trained; None
            trains ``spec`` as it is.
        has_flips: whether half of the training images are mirrored.
    """

    name: str
    spec: str
    data: str
    epochs: int
    learning_rate: float = 0.003
    weight_decay: float = 0.01
    trained_as: str | None = None
    has_flips: bool = False


BASES = (
    Base("mlp300-mnist", "mlp:300,100", "mnist", 30, 0.002, 0.1),
    Base(
        *("mlp1024-mnist", "mlp:1024,1024", "mnist", 20, 0.001, 0.05),
        trained_as="mlp:1024,1024,dropout=0.3",
    ),
    Base("lenet5-fashion", "lenet5-caffe", "fashion-mnist", 15, 0.002, 0.05),
    Base("lstm128-mnist", "lstm:128", "mnist", 16, 0.003, 0.01),
    Base("resnet8-fashion", "resnet:8", "fashion-mnist", 20, 0.003, 0.01, has_flips=True),
)


def main() -> None:
    """Makes what is missing and says how good each network is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--shared", type=Path, default=SHARED, help="holds data/mnist, ...")
    parser.add_argument("--models", default=",".join(base.name for base in BASES))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    asked = args.models.split(",")
    for base in BASES:
        if base.name in asked:
            network = base_network(base, args.cache, args.shared, threads=args.threads)
            test = rows_of(base.data, "test", args.cache, args.shared)
            print(f"{base.name}: {told(network, test)}", flush=True)


def rows_of(data: str, part: str, cache: Path, shared: Path = SHARED) -> Rows:
    """One part of the rows, x (rows, 1, 28, 28) uint8, y (rows,) int64; made where missing."""
    path = rows_file(data, part, cache)
    if not path.exists():
        _write_parts(load(shared / "data" / data), data, cache)
    return load(path).train


def rows_file(data: str, part: str, cache: Path) -> Path:
    """Where a part's rows lie, as ``hlserve compress --data`` takes them."""
    return cache / "data" / f"{data}-{part}.npz"


def base_file(base: Base, cache: Path) -> Path:
    """Where the trained network lies."""
    return cache / "bases" / f"{base.name}.safetensors"


def base_network(base: Base, cache: Path, shared: Path = SHARED, *, threads: int = 1) -> Network:
    """The trained network; trains it where it is missing."""
    path = base_file(base, cache)
    if path.exists():
        return load_network(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    train = rows_of(base.data, "train", cache, shared)
    validation = rows_of(base.data, "validation", cache, shared)
    assert train.y is not None
    assert validation.y is not None
    network = _fresh(base.trained_as or base.spec, train)
    state = path.with_suffix(".training.safetensors")
    history = fit(
        network,
        train.x,
        train.y,
        validation=(validation.x, validation.y),
        epochs=base.epochs,
        optimizer=AdamW(base.learning_rate, weight_decay=base.weight_decay),
        augment=Augment(flip=True) if base.has_flips else None,
        state_file=StateFile(state, every_s=60.0, resume=state.exists(), keep=True),
        seed=SEED,
        threads=threads,
    )
    if history.is_interrupted:
        raise SystemExit(f"{base.name}: interrupted; the same command goes on")
    if base.trained_as is not None:
        network = _with_weights_of(network, _fresh(base.spec, train))
    save(network, path, history=history, extra={"architecture": base.spec})
    state.unlink(missing_ok=True)
    return network


def told(network: Network, test: Rows) -> str:
    """Size and accuracy on the test rows, in words."""
    assert test.y is not None
    accuracy = evaluate(network, test.x, test.y).metric
    assert accuracy is not None
    return f"{network.n_parameters:,} parameters, {100 * accuracy:.2f} % of {len(test):,} test rows"


# ----- below


def _fresh(spec: str, train: Rows) -> Network:
    assert train.y is not None
    return build_for(spec, train.x, train.y, task="classification", seed=SEED)


def _with_weights_of(trained: Network, bare: Network) -> Network:
    """The bare network; the other one differs by layers that hold no weights."""
    for to, taken in zip(bare.params().values(), trained.params().values(), strict=True):
        to.value[...] = taken.value
    return bare


def _write_parts(dataset: Dataset, data: str, cache: Path) -> None:
    labels = dataset.train.y
    assert labels is not None
    assert dataset.test is not None
    share = 10_000 / 60_000
    kept, apart = validation_split(len(labels), share, seed=SEED, labels=labels)
    parts = (dataset.train.take(kept), dataset.train.take(apart), dataset.test)
    (cache / "data").mkdir(parents=True, exist_ok=True)
    for part, rows in zip(PARTS, parts, strict=True):
        path = rows_file(data, part, cache)
        unfinished = path.with_suffix(".tmp.npz")
        assert rows.y is not None
        np.savez(unfinished, x=rows.x, y=rows.y)
        unfinished.replace(path)


if __name__ == "__main__":
    main()
