"""Trains one model with one library and prints one JSON line; benchmarks/training.py runs it.

A process of its own keeps thread pools, caches and peak memory of the libraries apart.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 128
LEARNING_RATE = 1e-3


def main() -> None:
    """Reads the command line, trains, prints seconds an epoch, peak memory and accuracy."""
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=["hlserve", "torch", "sklearn"])
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=60_000)
    args = parser.parse_args()
    x, y, xt, yt = _fashion(args.data)
    x, y = x[: args.rows], y[: args.rows]
    side = {"hlserve": _hlserve, "torch": _torch, "sklearn": _sklearn}[args.side]
    seconds, accuracy, macs = side(args.model, x, y, xt, yt, args.epochs, args.threads)
    print(
        json.dumps(
            {
                "side": args.side,
                "model": args.model,
                "seconds": seconds,
                "accuracy": accuracy,
                "macs": macs,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


def _fashion(folder: Path) -> tuple[Any, Any, Any, Any]:
    """Raw uint8 images (n, 1, 28, 28) and int64 labels, the same reader for every side."""
    import gzip

    def read(name: str, offset: int) -> Any:
        with gzip.open(folder / name) as f:
            return np.frombuffer(f.read(), np.uint8, offset=offset)

    def images(name: str) -> Any:
        return read(name, 16).reshape(-1, 1, 28, 28)

    def labels(name: str) -> Any:
        return read(name, 8).astype(np.int64)

    return (
        images("train-images-idx3-ubyte.gz"),
        labels("train-labels-idx1-ubyte.gz"),
        images("t10k-images-idx3-ubyte.gz"),
        labels("t10k-labels-idx1-ubyte.gz"),
    )


def _hlserve(
    name: str, x: Any, y: Any, xt: Any, yt: Any, epochs: int, threads: int
) -> tuple[list[float], float, int]:
    from hlserve.nn import AdamW, build, fit

    spec = {"mlp": "mlp:300,100", "mlp1024": "mlp:1024,1024", "resnet8": "resnet:8"}
    network = build(
        spec.get(name, name),
        input_shape=x.shape[1:],
        n_outputs=10,
        task="classification",
        scale=1 / 255,
        seed=0,
    )
    history = fit(
        network,
        x,
        y,
        validation=None,
        epochs=epochs,
        batch_size=BATCH,
        optimizer=AdamW(LEARNING_RATE, weight_decay=0.0),
        seed=0,
        progress=False,
        threads=threads,
    )
    predicted = next(iter(network.predict(xt).values())).argmax(axis=1)
    seconds = [epoch.seconds for epoch in history.epochs]
    return seconds, float((predicted == yt).mean()), network.macs()


def _torch(
    name: str, x: Any, y: Any, xt: Any, yt: Any, epochs: int, threads: int
) -> tuple[list[float], float, int]:
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = _torch_model(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    loss_of = torch.nn.CrossEntropyLoss()
    rows, labels = torch.from_numpy(x.copy()), torch.from_numpy(y)
    seconds = []
    for _ in range(epochs):
        start = time.perf_counter()
        order = torch.randperm(len(rows))
        for at in range(0, len(rows), BATCH):
            batch = order[at : at + BATCH]
            optimizer.zero_grad()
            loss_of(model(rows[batch].float().div_(255)), labels[batch]).backward()
            optimizer.step()
        seconds.append(time.perf_counter() - start)
    model.eval()
    with torch.no_grad():
        parts = [model(torch.from_numpy(c).float().div_(255)) for c in np.array_split(xt, 20)]
    return seconds, float((torch.cat(parts).argmax(1).numpy() == yt).mean()), 0


def _torch_model(name: str) -> Any:
    from torch import nn

    def mlp(*hidden: int) -> Any:
        sizes = (784, *hidden)
        layers: list[Any] = [nn.Flatten()]
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], 10))

    def lenet5() -> Any:
        convolutions = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        convolutions += [nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        dense = [nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
        return nn.Sequential(*convolutions, *dense)

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(28, 128, batch_first=True), nn.Linear(128, 10)

        def forward(self, x: Any) -> Any:
            return self.head(self.lstm(x[:, 0])[0][:, -1])

    makers: dict[str, Callable[[], Any]] = {
        "mlp": lambda: mlp(300, 100),
        "mlp1024": lambda: mlp(1024, 1024),
        "lenet5": lenet5,
        "lstm:128": Recurrent,
        "resnet8": _torch_resnet8,
    }
    return makers[name]()


def _torch_resnet8() -> Any:
    import torch
    from torch import nn

    def convolution(i: int, o: int, stride: int, k: int = 3) -> list[Any]:
        return [nn.Conv2d(i, o, k, stride, k // 2, bias=False), nn.BatchNorm2d(o)]

    class Block(nn.Module):
        def __init__(self, i: int, o: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(*convolution(i, o, stride), nn.ReLU(), *convolution(o, o, 1))
            same = i == o and stride == 1
            self.skip = nn.Identity() if same else nn.Sequential(*convolution(i, o, stride, 1))

        def forward(self, x: Any) -> Any:
            return torch.relu(self.body(x) + self.skip(x))

    stem = [*convolution(1, 16, 2), nn.ReLU()]
    blocks = [Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def _sklearn(
    name: str, x: Any, y: Any, xt: Any, yt: Any, epochs: int, threads: int
) -> tuple[list[float], float, int]:
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    hidden = {"mlp": (300, 100), "mlp1024": (1024, 1024)}[name]
    rows = x.reshape(len(x), -1).astype(np.float32) / np.float32(255)
    tests = xt.reshape(len(xt), -1).astype(np.float32) / np.float32(255)
    model = MLPClassifier(hidden, batch_size=BATCH, alpha=0.0, random_state=0)
    seconds = []
    with threadpool_limits(threads):
        for _ in range(epochs):
            start = time.perf_counter()
            model.partial_fit(rows, y, classes=range(10))
            seconds.append(time.perf_counter() - start)
    return seconds, float(model.score(tests, yt)), 0


if __name__ == "__main__":
    sys.exit(main())
