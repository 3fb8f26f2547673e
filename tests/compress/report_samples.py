"""Reports of compressions that never were, as large and as bare as a test wants."""

from __future__ import annotations

from typing import Any

import numpy as np

from compress.report.classes import class_changes

FASHION = [
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
]


def row(name: str, scale: float, value: float, *, refusal: str | None = None) -> dict[str, Any]:
    """A model ``scale`` times the original's size and time."""
    size = int(1_067_056 * scale)
    return {
        "name": name,
        "family": "original" if scale == 1 else "pruned",
        "value": value,
        "interval": [value - 0.003, value + 0.0031],
        "drop": 0.9812 - value,
        "drop_upper": 0.9812 - value + 0.0019,
        "is_proven": refusal is None,
        "parameters": int(266_610 * scale),
        "macs": int(266_200 * scale),
        "size_bytes": size,
        "packed_bytes": int(size * 0.91),
        "memory_bytes": int(size * 2.6),
        "latency_s": {
            b: {"p50": t * scale, "p95": 1.3 * t * scale, "lower": t * scale, "upper": 1.1 * t}
            for b, t in (("1", 21.4e-6), ("32", 311e-6))
        },
        "speed_up": {b: {"ratio": 1 / scale, "lower": 0.9 / scale} for b in ("1", "32")},
        "int8_share": 0.0 if scale == 1 else 0.987,
        "refusal": refusal,
        "steps": [] if scale == 1 else steps(scale),
    }


def steps(scale: float) -> list[dict[str, Any]]:
    """Pruning, fine-tuning and integers."""
    told = []
    for technique, part, settings in (
        ("PruneNeurons", 0.5, {"keep": 0.41, "importance": "taylor"}),
        ("FineTune", 0.5, {"epochs": 7}),
        ("StaticInt8", 1.0, {"calibrator": "percentile"}),
    ):
        share = 1 - (1 - scale) * part
        told.append(
            {
                "technique": technique,
                "settings": settings,
                "parameters": int(266_610 * share),
                "macs": int(266_200 * share),
                "size_bytes": int(1_067_056 * share),
                "seconds": 12.34,
            }
        )
    return told


def classes(n: int = 10, rows: int = 3000, seed: int = 0) -> dict[str, Any]:
    """Answers of which class 6, where there is one, pays for the others."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, n, rows)
    before = np.where(rng.random(rows) < 0.9, truth, rng.integers(0, n, rows))
    after = np.where(rng.random(rows) < 0.02, rng.integers(0, n, rows), before)
    after = np.where((truth == 6) & (rng.random(rows) < 0.2), 0, after)
    labels = FASHION if n == 10 else [f"class number {i}" for i in range(n)]
    return class_changes(truth, before, after, labels, max_drop=0.005)


def layer(index: int) -> dict[str, Any]:
    """One dense layer, pruned and quantized."""
    return {
        "name": f"dense_{index}",
        "kind": "Dense",
        "before": {"shape": [784, 300], "parameters": 235_500},
        "after": {"shape": [784, 128], "parameters": 100_480, "format": "int8", "rank": 37},
        "why": "width 300 to 128: 41 % of its neurons carry 99 % of the importance",
    }


def histogram(index: int) -> dict[str, Any]:
    """Activations after a ReLU, with a tail that is cut."""
    counts = (1e5 * np.exp(-np.arange(128) / (5 + index))).astype(int).tolist()
    cuts = {"cut_low": 0.0, "cut_high": 4.25}
    return {"name": f"/dense_{index}/relu", "counts": counts, "low": 0.0, "high": 9.5} | cuts


def report(
    n_candidates: int = 12, n_classes: int = 10, n_layers: int = 3, *, is_proven: bool = True
) -> dict[str, Any]:
    """A whole report; the chosen one is ``prune 41 %, int8``."""
    rng = np.random.default_rng(1)
    original, best = row("original", 1, 0.9812), row("prune 41 %, int8", 0.077, 0.9804)
    tried = [best]
    for i in range(n_candidates - 1):
        scale = float(rng.uniform(0.02, 0.9))
        value = 0.9812 - float(rng.exponential(0.002)) - (0.3 if i % 7 == 5 else 0)
        refusal = "the drop's upper bound 0.71 pp exceeds 0.5 pp" if value < 0.978 else None
        tried.append(
            row(f"prune {100 * scale:.0f} %, candidate {i}", scale, value, refusal=refusal)
        )
    grid = (0.1, 0.25, 0.5, 0.75, 1.0)
    names = [f"dense_{i}" for i in range(n_layers)]
    part = classes(n_classes)
    return {
        "schema_version": 2,
        "model": "models/lenet300/1/model.onnx",
        "data": "fashion-mini",
        "evaluation": "val.npz",
        "rows": {"train": 54_321, "search": 6_789, "test": 10_001},
        "metric": {"name": "accuracy", "is_share": True, "higher_is_better": True},
        "output": "probabilities",
        "max_drop": 0.005,
        "minimize": "latency",
        "provider": "cpu",
        "batches": [1, 32],
        "seed": 4711,
        "seconds": 238.7,
        "is_proven": is_proven,
        "smallest_provable_drop": 0.00044,
        "comparisons": 17,
        "machine": {
            "cpu": "Imaginary Xeon 9000",
            "flags": ["avx2", "avx512_vnni"],
            "cores": 2,
            "onnxruntime": "1.31.1",
            "floor_s": 4.56e-6,
        },
        "original": original,
        "best": best,
        "tried": tried,
        "pareto": ["original", best["name"]],
        "test": {
            "rows": 10_001,
            "original": 0.9801,
            "best": 0.9789,
            "drop": 0.0012,
            "drop_upper": 0.0031,
            "original_interval": [0.9771, 0.9827],
            "best_interval": [0.9759, 0.9816],
        },
        "sensitivity": {
            "pruning": [
                {"group": n, "width": 300, "losses": [[k, (1.1 - k) / (i + 2)] for k in grid]}
                for i, n in enumerate(names)
            ],
            "quantization": [
                {"layer": n, "damage": 0.0123 / (i + 1), "kept_float": i == 0}
                for i, n in enumerate(names)
            ],
        },
        "layers": [layer(i) for i in range(n_layers)],
        "calibration": [histogram(i) for i in range(n_layers)],
        "classes": part,
        "warnings": part["warnings"],
        "notes": ["the student was not tried: no time was left"],
    }


def bare() -> dict[str, Any]:
    """As little as a report can hold."""
    return {"original": {"name": "original"}}


def kept() -> dict[str, Any]:
    """Nothing passed."""
    found = report()
    refused = [{**r, "refusal": r["refusal"] or "slower: 0.91 times"} for r in found["tried"]]
    return {**found, "best": found["original"], "tried": refused, "pareto": ["original"]}
