"""Rows for the ONNX files from elsewhere: train, validation and test, by input name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.compression_bases import PARTS
from hlserve.datasets import load

IDS, TIME = 4000, 32  # of the transformer over sentences
SIZES = (400, 400, 400)  # of the parts, where rows are made; one row may be half a megabyte
FEW = (128, 320, 320)

Arrays = dict[str, np.ndarray]
Parts = dict[str, Arrays]


def fashion_rows(shared: Path, *, size: int) -> Parts:
    """Fashion-MNIST, standardized, black at the border: x (rows, 1, size, size), y (rows,)."""
    dataset = load(shared / "data" / "fashion-mnist")
    assert dataset.test is not None
    border = (size - 28) // 2
    around = ((0, 0), (0, 0), (border, border), (border, border))
    order = np.random.default_rng(0).permutation(len(dataset.train))
    rows = (dataset.train.take(order[5000:]), dataset.train.take(order[:5000]), dataset.test)
    parts: Parts = {}
    for part, taken in zip(PARTS, rows, strict=True):
        x = np.pad(taken.x.astype(np.float32) / 255, around)
        assert taken.y is not None
        parts[part] = {"x": (x - 0.2860) / 0.3530, "y": taken.y}  # mean and deviation of the set
    return {part: _as_float32(arrays) for part, arrays in parts.items()}


def sentence_rows(shared: Path) -> Parts:
    """Sentence polarity as ids of words: x (rows, 32) int64, y 1 if positive.

    0 is padding, 1 any word that is rare among the training rows.
    """
    texts, labels = _sentences(shared)
    order = np.random.default_rng(0).permutation(len(texts))
    split = np.split(order, [len(order) - 2400, len(order) - 1200])
    counts = Counter(word for i in split[0] for word in texts[i])
    ids = {word: n for n, (word, _) in enumerate(counts.most_common(IDS - 2), start=2)}
    x = np.zeros((len(texts), TIME), np.int64)
    for row, words in enumerate(texts):
        known = [ids.get(word, 1) for word in words[:TIME]]
        x[row, : len(known)] = known
    return {p: {"x": x[taken], "y": labels[taken]} for p, taken in zip(PARTS, split, strict=True)}


def orientation_rows(shared: Path) -> Parts:
    """Pages of text, each turned by 0, 90, 180 or 270 degrees: x (rows, 3, 224, 224) float16."""
    texts, _ = _sentences(shared)
    rng = np.random.default_rng(0)
    return {
        part: {"x": np.stack([_page(texts, rng) for _ in range(n)])}
        for part, n in zip(PARTS, FEW, strict=True)
    }


def seizure_rows(shared: Path) -> Parts:
    """Spectra over time, noise with bursts: x (rows, 100, 40); the recordings are not public."""
    del shared
    rng = np.random.default_rng(0)
    parts: Parts = {}
    for part, n in zip(PARTS, SIZES, strict=True):
        x = rng.normal(size=(n, 100, 40)) + 2 * rng.normal(size=(n, 1, 40)).cumsum(axis=2) / 6
        parts[part] = {"x": x}
    return {part: _as_float32(arrays) for part, arrays in parts.items()}


def encoder_rows(shared: Path) -> Parts:
    """Names as ids of letters, up to 12 of 40: src (rows, 12), src_mask true where a letter is."""
    del shared
    rng = np.random.default_rng(0)
    parts: Parts = {}
    for part, n in zip(PARTS, SIZES, strict=True):
        mask = np.arange(12) < rng.integers(3, 13, n)[:, None]
        parts[part] = {"src": rng.integers(1, 40, (n, 12)) * mask, "src_mask": mask}
    return parts


def decoder_rows(shared: Path) -> Parts:
    """What the encoder makes of such names, and the first letters of an answer."""
    import onnxruntime as ort

    path = shared / "onnx-models" / "arabic_romanizer_encoder.onnx"
    encoder = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    parts: Parts = {}
    for part, feeds in encoder_rows(shared).items():
        memory, _, hidden = encoder.run(None, feeds)
        prefix = rng.integers(1, 100, (len(memory), 3))
        state = {"memory": memory, "src_mask": feeds["src_mask"], "hidden": hidden}
        parts[part] = {"prefix": prefix, **state}
    return parts


# ----- below


def _as_float32(arrays: Arrays) -> Arrays:
    return {k: a if a.dtype.kind == "i" else a.astype(np.float32) for k, a in arrays.items()}


def _sentences(shared: Path) -> tuple[list[list[str]], np.ndarray]:
    texts: list[list[str]] = []
    labels: list[int] = []
    for label, ending in enumerate(("neg", "pos")):
        path = shared / "data" / "sentence-polarity" / f"rt-polarity.{ending}"
        lines = [line for line in path.read_bytes().split(b"\n") if line]
        texts += [line.decode("latin-1").split() for line in lines]
        labels += [label] * len(lines)
    return texts, np.array(labels)


def _page(texts: list[list[str]], rng: np.random.Generator) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    page = Image.new("RGB", (224, 224), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(int(rng.integers(12, 25)))
    for top in range(8, 216, int(rng.integers(22, 36))):
        text = " ".join(texts[int(rng.integers(len(texts)))])
        draw.text((8, top), text[:40], fill="black", font=font)
    x = np.rot90(np.asarray(page, np.float32) / 255, k=int(rng.integers(4)))
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return np.moveaxis((x - mean) / deviation, -1, 0).astype(np.float16)
