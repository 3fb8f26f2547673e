"""Spoken digits by a recurrent network over log-mel features of the sound.

    python examples/speech_digits.py

Data: Free Spoken Digit Dataset (CC BY-SA 4.0), 3,000 recordings of six speakers at 8 kHz, with its
official split: recordings 0 to 4 of every speaker and digit are the test part. It is looked at
once, at the end; a tenth of the training recordings chooses the epoch. The front end that makes
the features is saved with the network, so that `hlserve predict` takes a WAV file.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from hlserve.datasets import load
from hlserve.frontend import FRONTEND_KEY, to_json
from hlserve.nn import AdamW, build_for, evaluate, fit, save
from hlserve.nn.metrics import wilson_interval

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("HLSERVE_SHARED", ROOT / "../shared"))


def main() -> None:
    """Trains, tells and saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "fsdd" / "recordings.zip")
    parser.add_argument("--arch", default="bigru:64,dropout=0.3")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "spoken-digits.safetensors")
    parser.add_argument("--quick", action="store_true", help="one epoch")
    args = parser.parse_args()
    data = load(args.data, frontend="log-mel:40")
    assert data.test is not None  # the official split
    assert data.frontend is not None
    network = build_for(
        args.arch,
        data.train.x,
        data.train.y,
        task="classification",
        class_labels=data.class_labels,
        units=data.units,
        has_mask=True,
    )
    names = [entry.name for entry in network.inputs]
    history = fit(
        network,
        data.train.inputs_for(names),
        data.train.y,
        epochs=1 if args.quick else args.epochs,
        optimizer=AdamW(4e-3),
        threads=args.threads,
    )
    tested = evaluate(network, data.test.inputs_for(names), data.test.y)
    low, high = wilson_interval(round(tested.metric * tested.n_rows), tested.n_rows)
    print(f"{args.arch}: {network.n_parameters:,} parameters, {history.seconds:.0f} s of training")
    print(
        f"test accuracy {100 * tested.metric:.2f} % of {tested.n_rows} recordings "
        f"(95 %: {100 * low:.2f} to {100 * high:.2f})"
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    extra = {FRONTEND_KEY: to_json(data.frontend.feeding(names))}
    save(network, args.out, history=history, extra=extra)
    print(f"next: hlserve publish {args.out} --out models/spoken-digits")


if __name__ == "__main__":
    main()
