"""Is a sentence praise or complaint? An embedding and a recurrent network, in five folds.

    python examples/text_sentiment.py

Data: UCI Sentiment Labelled Sentences (Kotzias et al., KDD 2015; CC BY 4.0), 3,000 sentences of
reviews of products, films and restaurants, half of them positive. Each fold fits the vocabulary and
the network on four fifths and answers the rest once; nothing is chosen by what it answers, and the
number of epochs is fixed.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from tabulate import tabulate

from hlserve.frontend import FRONTEND_KEY, Words, to_json
from hlserve.nn import AdamW, Network, build_for, evaluate, fit, save
from hlserve.nn.metrics import wilson_interval
from hlserve.nn.param import Array

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("HLSERVE_SHARED", ROOT / "../shared"))
FILES = ("amazon_cells_labelled.txt", "imdb_labelled.txt", "yelp_labelled.txt")
FOLDS = 5


def main() -> None:
    """Answers every sentence by a network that has not seen it, and tells how many rightly."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "sentiment-uci")
    parser.add_argument("--arch", default="bigru:32,dropout=0.5")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "sentiment.safetensors")
    parser.add_argument("--quick", action="store_true", help="a fifth of the sentences, one epoch")
    args = parser.parse_args()
    texts, labels = sentences(args.data)
    order = np.random.default_rng(0).permutation(len(texts))
    order = order[: len(order) // 5] if args.quick else order
    epochs = 1 if args.quick else args.epochs
    rows, right = [], 0
    for fold in range(FOLDS):
        held_out = order[fold::FOLDS]
        learned = np.setdiff1d(order, held_out)
        front_end, network = trained(
            args.arch, [texts[i] for i in learned], labels[learned], epochs
        )
        answered = front_end.apply([texts[i] for i in held_out])
        tested = evaluate(network, answered, labels[held_out])
        right += round(tested.metric * tested.n_rows)
        rows.append([fold + 1, front_end.vocabulary_size, f"{100 * tested.metric:.2f} %"])
    low, high = wilson_interval(right, len(order))
    print(tabulate(rows, headers=["fold", "words", "accuracy"], disable_numparse=True))
    print(
        f"{args.arch}: {100 * right / len(order):.2f} % of {len(order):,} sentences "
        f"(95 %: {100 * low:.2f} to {100 * high:.2f})"
    )

    front_end, network = trained(args.arch, [texts[i] for i in order], labels[order], epochs)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save(network, args.out, extra={FRONTEND_KEY: to_json(front_end)})
    print(f"next: hlserve publish {args.out} --out models/sentiment   (trained on all sentences)")


def sentences(folder: Path) -> tuple[list[str], Array]:
    """The sentences, and 1 for a positive one."""
    # A sentence may hold what Python takes for other line ends: only "\n" separates them.
    text = "\n".join((folder / name).read_text(encoding="utf-8") for name in FILES)
    pairs = [line.rsplit("\t", 1) for line in text.split("\n") if line.strip()]
    return [pair[0] for pair in pairs], np.array([int(pair[1]) for pair in pairs])


def trained(arch: str, texts: list[str], labels: Array, epochs: int) -> tuple[Words, Network]:
    """A vocabulary and a network fitted on all of these sentences."""
    front_end = Words.fit(texts)
    rows = front_end.apply(texts)
    network = build_for(
        arch,
        rows["input"],
        labels,
        task="classification",
        class_labels=("complaint", "praise"),
        n_ids=front_end.vocabulary_size,
        has_mask=True,
    )
    fit(network, rows, labels, validation=None, epochs=epochs, optimizer=AdamW(1e-2))
    return front_end, network


if __name__ == "__main__":
    main()
