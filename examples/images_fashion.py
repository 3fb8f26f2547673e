"""Fashion-MNIST by a small convolutional network: 28x28 grey pictures of ten kinds of clothes.

    python examples/images_fashion.py

Data: Fashion-MNIST (Zalando Research, MIT licence), the source's own 60,000 training and 10,000
test pictures. The test pictures are looked at once, at the end; a tenth of the training pictures
chooses the epoch.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from hlserve.datasets import load
from hlserve.nn import build_for, evaluate, fit, save
from hlserve.nn.metrics import wilson_interval

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("HLSERVE_SHARED", ROOT / "../shared"))


def main() -> None:
    """Trains, tells and saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "fashion-mnist")
    parser.add_argument("--arch", default="cnn:32,64/128")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "fashion-cnn.safetensors")
    parser.add_argument("--quick", action="store_true", help="2,000 pictures and one epoch")
    args = parser.parse_args()
    data = load(args.data)
    assert data.test is not None  # Fashion-MNIST has a test part
    train = data.train.take(slice(2000)) if args.quick else data.train
    network = build_for(
        args.arch,
        train.x,
        train.y,
        task="classification",
        class_labels=data.class_labels,
        units=data.units,
    )
    history = fit(
        network,
        train.x,
        train.y,
        epochs=1 if args.quick else args.epochs,
        threads=args.threads,
    )
    tested = evaluate(network, data.test.x, data.test.y)
    low, high = wilson_interval(round(tested.metric * tested.n_rows), tested.n_rows)
    print(f"{args.arch}: {network.n_parameters:,} parameters, {history.seconds:.0f} s of training")
    print(
        f"test accuracy {100 * tested.metric:.2f} % of {tested.n_rows:,} pictures "
        f"(95 %: {100 * low:.2f} to {100 * high:.2f})"
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save(network, args.out, history=history)
    print(f"next: hlserve compress {args.out} --data {args.data} --max-drop 0.5pp --out models/cnn")


if __name__ == "__main__":
    main()
