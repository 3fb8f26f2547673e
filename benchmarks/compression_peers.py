"""One peer quantizes one ONNX file; a process of its own, in ``.venv-peers`` (``make peers``).

    .venv-peers/bin/python benchmarks/compression_peers.py ort-tuned float.onnx rows.npz out.onnx

``rows.npz`` holds an array for each input, named like it, and labels ``y`` where there are any.
Peers, each as its documentation tells, cleaned up beforehand with what it brings for that:

- ``ort``: ``onnxruntime.quantization.quantize_static`` with its defaults (S8S8 QDQ, per tensor)
- ``ort-tuned``: by hand what suits x86: U8S8 per channel; LSTMs dynamically, with U8 weights
- ``nncf``: ``nncf.quantize`` with its defaults
- ``nncf-control``: ``nncf.quantize_with_accuracy_control`` with the bound of ``--max-drop``
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

CALIBRATION_ROWS = 512
BATCH = 32  # rows at a time in calibration, where the model lets us choose

Feeds = dict[str, np.ndarray]


def main() -> None:
    """Writes the peer's file; what goes wrong ends the process with an error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peer", choices=["ort", "ort-tuned", "nncf", "nncf-control"])
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--max-drop", type=float, default=0.005, help="a share of 1")
    args = parser.parse_args()
    with np.load(args.rows) as archive:
        rows = {name: archive[name] for name in archive.files}
    labels = rows.pop("y", None)
    if args.peer == "nncf":
        _nncf(args.model, rows, args.out)
    elif args.peer == "nncf-control":
        if labels is None:
            raise SystemExit("nncf-control needs labels, and there are none")
        _nncf_control(args.model, rows, labels, args.out, args.max_drop)
    else:
        _onnxruntime(args.model, rows, args.out, is_tuned=args.peer == "ort-tuned")
    _session(args.out)  # a file that does not load is an error


def batches(rows: Feeds, size: int) -> Iterator[Feeds]:
    """The rows in batches; rows that fill none are left out."""
    n_rows = len(next(iter(rows.values())))
    for start in range(0, n_rows - size + 1, size):
        yield {name: array[start : start + size] for name, array in rows.items()}


# ----- below


def _onnxruntime(path: Path, rows: Feeds, out: Path, *, is_tuned: bool) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(prefix="hlserve-bench-") as folder:
        clean = Path(folder) / "clean.onnx"
        quant_pre_process(path, clean, skip_symbolic_shape=True)  # the symbolic part needs sympy
        if is_tuned and _has_lstm(path):
            quantize_dynamic(clean, out, weight_type=QuantType.QUInt8)
            return
        tuned = {"activation_type": QuantType.QUInt8, "per_channel": True} if is_tuned else {}
        quantize_static(clean, out, _reader(path, rows), **tuned)


def _reader(path: Path, rows: Feeds) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the base class has no types
        """Hands the calibration rows over, batch by batch."""

        def __init__(self) -> None:
            self._batches = batches(_first(rows), _batch(path, BATCH))

        def get_next(self) -> Feeds | None:
            return next(self._batches, None)

    return Reader()


def _nncf(path: Path, rows: Feeds, out: Path) -> None:
    import nncf

    dataset = nncf.Dataset(list(batches(_first(rows), _batch(path, 1))))
    onnx.save(nncf.quantize(onnx.load(path), dataset), out)


def _nncf_control(path: Path, rows: Feeds, labels: np.ndarray, out: Path, max_drop: float) -> None:
    import nncf

    size = _batch(path, 1)
    judged = [
        {"feeds": feeds, "labels": labels[number * size : (number + 1) * size]}
        for number, feeds in enumerate(batches(rows, size))
    ]

    def accuracy(model: Any, items: Iterable[Any]) -> tuple[float, list[float]]:
        session = _session(model.SerializeToString())
        right: list[float] = []
        for item in items:
            scores = np.asarray(session.run(None, item["feeds"])[0])
            right.append(float(np.mean(scores.argmax(axis=-1) == item["labels"])))
        return float(np.mean(right)), right

    model = nncf.quantize_with_accuracy_control(
        onnx.load(path),
        nncf.Dataset(list(batches(_first(rows), size))),
        nncf.Dataset(judged),
        accuracy,
        max_drop=max_drop,
    )
    onnx.save(model, out)


def _first(rows: Feeds) -> Feeds:
    return {name: array[:CALIBRATION_ROWS] for name, array in rows.items()}


def _batch(path: Path, wanted: int) -> int:
    """What is wanted, or the only batch size that the model takes."""
    sizes = {entry.shape[0] for entry in _session(path).get_inputs() if entry.shape}
    fixed = [size for size in sizes if isinstance(size, int)]
    return fixed[0] if fixed else wanted


def _session(model: Path | bytes) -> ort.InferenceSession:
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"])


def _has_lstm(path: Path) -> bool:
    return any(node.op_type == "LSTM" for node in onnx.load(path).graph.node)


if __name__ == "__main__":
    main()
