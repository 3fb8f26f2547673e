"""PyTorch's sequence networks through both of its exporters: imported, they answer as before.

The oracle is PyTorch's own forward pass.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from compress.onnx_import import NotImportableError, import_onnx
from hlserve.nn.losses import CrossEntropy
from hlserve.nn.network import Network

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402  # needs torch

ROWS, TIME, FEATURES, HIDDEN, IDS, DIM, CLASSES = 9, 6, 4, 5, 20, 8, 3
WAYS = ("traced", "dynamo")
LEARNING_RATE = 0.1


class Recurrent(nn.Module):
    """Classes of sequences; ``read`` says what the head looks at."""

    def __init__(self, kind: str, read: str, **options: Any) -> None:
        super().__init__()
        self.layer = getattr(nn, kind)(FEATURES, HIDDEN, **options)
        self.read = read
        self.head = nn.Linear(HIDDEN * (1 + self.layer.bidirectional), CLASSES)

    def forward(self, x: Any) -> Any:
        if not self.layer.batch_first:
            x = x.transpose(0, 1)
        steps, state = self.layer(x)
        steps = steps if self.layer.batch_first else steps.transpose(0, 1)
        state = state[0] if isinstance(state, tuple) else state
        if self.read == "state":
            return self.head(state[-1])
        if self.read == "both states":
            return self.head(torch.cat([state[-2], state[-1]], dim=1))
        if self.read == "last":
            return self.head(steps[:, -1])
        return self.head(torch.relu(steps)).mean(1)


class Encoder(nn.Module):
    """Classes of sentences, by an encoder as PyTorch builds it."""

    def __init__(self, read: str = "mean", n_layers: int = 1, **options: Any) -> None:
        super().__init__()
        self.words = nn.Embedding(IDS, DIM)
        self.places = nn.Parameter(torch.randn(TIME, DIM))
        layer = nn.TransformerEncoderLayer(DIM, 2, 16, **options)
        self.is_batch_first = options.get("batch_first", False)
        self.layers = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)
        self.head = nn.Linear(DIM, CLASSES)
        self.read = read

    def forward(self, ids: Any) -> Any:
        y = self.words(ids) + self.places
        mask = ids == 0 if self.read == "words" else None
        if self.is_batch_first:
            y = self.layers(y, src_key_padding_mask=mask)
        else:
            y = self.layers(y.transpose(0, 1), src_key_padding_mask=mask).transpose(0, 1)
        if self.read == "words":
            is_word = (ids != 0).to(y.dtype)[..., None]
            return self.head((y * is_word).sum(1) / is_word.sum(1).clamp(min=1.0))
        return self.head(y[:, 0] if self.read == "first" else y.mean(1))


RECURRENT = {
    "LSTM": ("LSTM", "last", {"batch_first": True}),
    "LSTM of two layers": ("LSTM", "state", {"num_layers": 2, "batch_first": True}),
    "LSTM both ways": ("LSTM", "both states", {"num_layers": 2, "bidirectional": True}),
    "LSTM both ways, last step": ("LSTM", "last", {"bidirectional": True, "batch_first": True}),
    "LSTM, all steps": ("LSTM", "all", {"bidirectional": True}),
    "GRU": ("GRU", "last", {"num_layers": 2, "batch_first": True}),
    "GRU both ways": ("GRU", "both states", {"bidirectional": True}),
    "RNN": ("RNN", "last", {"batch_first": True}),
    "RNN of ReLUs, both ways": ("RNN", "all", {"nonlinearity": "relu", "bidirectional": True}),
}
ENCODERS: dict[str, dict[str, Any]] = {
    "encoder": {"batch_first": True},
    "encoder with time first": {"n_layers": 2, "norm_first": True, "activation": "gelu"},
    "encoder without padding": {"read": "words", "batch_first": True},
    "encoder, first step": {"read": "first", "batch_first": True},
}


def sequences() -> Any:
    """Real numbers, (rows, time, features)."""
    return np.random.default_rng(0).standard_normal((ROWS, TIME, FEATURES)).astype(np.float32)


def sentences() -> Any:
    """Ids (rows, time), zeros at the end of some rows and within one."""
    ids = np.random.default_rng(0).integers(1, IDS, (ROWS, TIME))
    ids[3:, 4:] = 0
    ids[1, 2] = 0
    return ids


def exported(module: Any, x: Any, way: str, folder: Path) -> onnx.ModelProto:
    """The file that one of the exporters writes, with a free batch."""
    example, path = torch.from_numpy(x[:2]), folder / "model.onnx"
    names = {"input_names": ["x"], "output_names": ["y"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if way == "traced":
            axes = {"x": {0: "batch"}, "y": {0: "batch"}}
            torch.onnx.export(module, (example,), path, dynamo=False, dynamic_axes=axes, **names)
        else:
            torch.onnx.export(
                module,
                (example,),
                path,
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
                **names,
            )
    return onnx.load_model(io.BytesIO(path.read_bytes()))


def require_same(module: Any, x: Any, way: str, folder: Path) -> Network:
    """Imports what is exported and compares the answers on all rows."""
    with torch.no_grad():
        for parameter in module.parameters():  # layers start alike, and are written once then
            parameter += 0.1 * torch.randn_like(parameter)
    module.eval()
    found = import_onnx(exported(module, x, way, folder), {"x": x}, labels=np.arange(ROWS) % 3)
    with torch.no_grad():
        wanted = module(torch.from_numpy(x)).numpy()
    # float32 sums in another order
    np.testing.assert_allclose(found.network.predict({"x": x})["y"], wanted, rtol=1e-4, atol=1e-5)
    return found.network


def require_learning(network: Network, x: Any) -> None:
    """A step down the gradient of all weights lessens the loss."""
    labels, losses = np.arange(ROWS) % CLASSES, []
    workspace = network.workspace(np.random.default_rng(0))
    for _ in range(2):
        network.grad.fill(0)
        outputs, backward = network.forward({"x": x}, workspace=workspace, training=True)
        loss, gradient = CrossEntropy()(outputs, labels)
        losses.append(float(loss))
        backward(gradient)
        network.value[...] -= LEARNING_RATE * network.grad
    assert losses[1] < losses[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_classifier_answers_as_before_and_learns(
    name: str, way: str, tmp_path: Path
) -> None:
    kind, read, options = RECURRENT[name]
    if kind == "RNN" and way == "dynamo":
        pytest.skip("this exporter writes an RNN out step by step; see the test below")
    torch.manual_seed(0)
    module = Recurrent(kind, read, **options)
    network = require_same(module, sequences(), way, tmp_path)
    n_layers = options.get("num_layers", 1)
    assert sum(type(node.layer).__name__ == kind for node in network.nodes) == n_layers
    require_learning(network, sequences())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ENCODERS)
def test_a_transformer_answers_as_before_and_learns(name: str, way: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = require_same(Encoder(**ENCODERS[name]), sentences(), way, tmp_path)
    kinds = [type(node.layer).__name__ for node in network.nodes]
    assert kinds.count("MultiHeadAttention") == ENCODERS[name].get("n_layers", 1)
    assert kinds.count("Embedding") == 1
    require_learning(network, sentences())


def test_steps_that_an_exporter_writes_out_are_refused(tmp_path: Path) -> None:
    module = Recurrent("RNN", "last", batch_first=True).eval()
    with pytest.raises(NotImportableError, match="share weights"):
        import_onnx(exported(module, sequences(), "dynamo", tmp_path), {"x": sequences()})
