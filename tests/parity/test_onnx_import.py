"""PyTorch modules through both of its exporters: the same answers here, and trained further.

Every module stands for a family of feed-forward networks. What cannot be imported has its place
in the table too, with the operator that the refusal must name.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from compress.onnx_import import NotImportableError, import_onnx
from compress.onnx_import.importer import Imported
from hlserve.nn.layers import GELU, BatchNorm, Clip, GroupNorm, HardSwish, LayerNorm, SiLU
from hlserve.nn.param import Array

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402  # needs torch

F = nn.functional


class ResidualBlock(nn.Module):
    """ResNet's basic block, its way round a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.around = nn.Sequential(nn.Conv2d(3, 8, 1, 2, bias=False), nn.BatchNorm2d(8))

    def forward(self, x: Any) -> Any:
        y = self.norm2(self.second(F.relu(self.norm(self.first(x)))))
        return F.relu(y + self.around(x))


class InvertedResidual(nn.Module):
    """MobileNetV2's block."""

    def __init__(self, channels: int = 6, hidden: int = 12) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Any) -> Any:
        return x + self.block(x)


class SqueezeExcite(nn.Module):
    """MobileNetV3's gate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Any) -> Any:
        gate = self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1))))
        return x * F.hardsigmoid(gate)


class ConvNeXtBlock(nn.Module):
    """Depthwise, then features last for LayerNorm and two Linear layers, then a layer scale."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.linspace(-1, 1, channels))

    def forward(self, x: Any) -> Any:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(F.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class DenseBlock(nn.Module):
    """DenseNet: normalization ahead of every convolution, all outputs side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(4 + 3 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(4 + 3 * i, 3, 3, 1, 1) for i in range(3))

    def forward(self, x: Any) -> Any:
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return x


class ShuffleUnit(nn.Module):
    """ShuffleNetV2: one half stays, then channels of both halves take turns."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, 1, 1)

    def forward(self, x: Any) -> Any:
        left, right = x.chunk(2, dim=1)
        y = torch.cat([left, F.relu(self.conv(right))], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Normalized(nn.Module):
    """Pixels less the mean of their channel, by its deviation, then a small network."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.3, 0.25]).view(1, 3, 1, 1))
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Any) -> Any:
        y = F.relu(self.conv((x - self.mean) / self.std))
        return torch.cat([y.mean((2, 3)), y.amax((2, 3))], 1)


def _same(channels: int) -> nn.Module:
    """SAME padding as other frameworks have it: the odd row goes behind."""
    return nn.Sequential(
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(channels, 6, 3, 2),
        nn.ReLU(),
        nn.ZeroPad2d((1, 1, 0, 1)),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(6, 4, 3, padding=2, dilation=2),
    )


Make = Callable[[], Any]

# name -> module, the shape of one row
IMPORTED: dict[str, tuple[Make, tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 4)), (9,)),
    "mlp of many functions": (
        lambda: nn.Sequential(
            nn.Linear(9, 16),
            nn.SiLU(),
            nn.LayerNorm(16),
            nn.Linear(16, 16),
            nn.PReLU(16),
            nn.Linear(16, 8),
            nn.BatchNorm1d(8),
            nn.Hardtanh(),
            nn.Linear(8, 8),
            nn.Hardsigmoid(),
            nn.Linear(8, 8),
            nn.ELU(),
            nn.Linear(8, 5),
            nn.LogSoftmax(1),
        ),
        (9,),
    ),
    "lenet": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 8, 5),
            nn.Tanh(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(8, 10),
            nn.Softmax(1),
        ),
        (1, 12, 12),
    ),
    "residual block": (ResidualBlock, (3, 10, 10)),
    "mobilenet v2 block": (InvertedResidual, (6, 8, 8)),
    "mobilenet v3 block": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.Hardswish(),
            nn.Conv2d(8, 8, 5, 1, 2, groups=8, bias=False),
            nn.BatchNorm2d(8),
            SqueezeExcite(8),
            nn.Hardswish(),
            nn.Conv2d(8, 6, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 4),
        ),
        (3, 9, 9),
    ),
    "convnext block": (ConvNeXtBlock, (8, 7, 6)),
    "gelu by tanh": (lambda: nn.Sequential(nn.Linear(6, 8), nn.GELU("tanh")), (6,)),
    "dense block": (DenseBlock, (4, 6, 6)),
    "shuffle unit": (ShuffleUnit, (8, 5, 5)),
    "normalized pixels": (Normalized, (3, 8, 8)),
    "same padding": (lambda: _same(3), (3, 9, 10)),
    "windows over the edge": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.ReLU(),
            nn.AvgPool2d(2, 2, ceil_mode=True),
        ),
        (2, 10, 9),
    ),
    "average without its padding": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
        (2, 8, 8),
    ),
    "series": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 8, 5, padding=4, dilation=2),
            nn.BatchNorm1d(8),
            nn.GELU(),
            nn.MaxPool1d(2),
            nn.Conv1d(8, 6, 3),
            nn.LeakyReLU(0.2),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(6, 3),
        ),
        (3, 24),
    ),
    "autoencoder": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 6, 3, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 4, 3, 2, 1, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(4, 2, 4, 2, 1),
            nn.Sigmoid(),
        ),
        (2, 8, 8),
    ),
    "autoencoder of series": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 6, 4, 2, 1), nn.ReLU(), nn.ConvTranspose1d(6, 2, 4, 2, 1)
        ),
        (2, 16),
    ),
    "groups": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 6, 3),
            nn.GroupNorm(3, 6),
            nn.SiLU(),
            nn.InstanceNorm2d(6, affine=True),
            nn.Conv2d(6, 2, 1, groups=2),
            nn.Softplus(),
        ),
        (2, 6, 6),
    ),
}

# name -> module, the shape of one row, what the refusal must name
REFUSED: dict[str, tuple[Make, tuple[int, ...], str]] = {
    "three axes": (lambda: nn.Conv3d(1, 2, 3), (1, 5, 5, 5), r"\(Conv\): it slides over 3 axes"),
    "reflected edges": (
        lambda: nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(1, 2, 3)),
        (1, 6, 6),
        r"\(Pad\)",
    ),
    "normalized over images": (lambda: nn.LayerNorm([2, 4, 4]), (2, 4, 4), "axis"),
    "resized": (lambda: nn.Upsample(scale_factor=2), (2, 4, 4), r"\(Resize\)"),
}

EXPORTERS = (
    pytest.param(False, id="by tracing"),
    pytest.param(True, id="by torch.export", marks=pytest.mark.slow),
)


def seeded(make: Make, shape: tuple[int, ...], n: int = 6) -> tuple[Any, Array]:
    """A module with random weights and statistics, in prediction, and rows for it."""
    torch.manual_seed(0)
    module = make()
    generator = np.random.default_rng(0)
    for name, buffer in module.named_buffers():
        if "running" in name:
            buffer.copy_(torch.from_numpy(generator.uniform(0.5, 1.5, buffer.shape)))
    for param in module.parameters():
        param.data.add_(0.1 * torch.randn(param.shape))
    return module.eval(), generator.standard_normal((n, *shape)).astype(np.float32)


def exported(module: Any, rows: Array, *, dynamo: bool, opset: int | None = None) -> Any:
    """The module as a file with any number of rows."""
    file = io.BytesIO()
    x = torch.from_numpy(rows[:2])
    batch: dict[str, Any] = {"dynamic_axes": {"x": {0: "n"}, "y": {0: "n"}}}
    if dynamo:
        batch = {"dynamic_shapes": ({0: torch.export.Dim("n", min=1)},), "verbose": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (x,),
            file,
            input_names=["x"],
            output_names=["y"],
            dynamo=dynamo,
            opset_version=opset,
            external_data=False,
            **batch,
        )
    return onnx.load_model_from_string(file.getvalue())


def imported(module: Any, rows: Array, *, dynamo: bool, opset: int | None = None) -> Imported:
    """The module through a file."""
    return import_onnx(exported(module, rows, dynamo=dynamo, opset=opset), {"x": rows})


def require_equal(found: Imported, module: Any, rows: Array) -> None:
    """The network answers what the module answers."""
    with torch.no_grad():
        wanted = module(torch.from_numpy(rows)).numpy()
    (answers,) = found.network.predict({"x": rows}).values()
    # float32 sums of up to some hundred terms in another order
    np.testing.assert_allclose(answers, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dynamo", EXPORTERS)
@pytest.mark.parametrize("name", IMPORTED)
def test_a_module_answers_the_same_when_it_is_imported(name: str, dynamo: bool) -> None:
    make, shape = IMPORTED[name]
    module, rows = seeded(make, shape)
    require_equal(imported(module, rows, dynamo=dynamo), module, rows)


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 20])
@pytest.mark.parametrize(
    "name", ["mobilenet v2 block", "mobilenet v3 block", "convnext block", "same padding"]
)
def test_files_of_any_age_answer_the_same(name: str, opset: int) -> None:
    make, shape = IMPORTED[name]
    module, rows = seeded(make, shape)
    require_equal(imported(module, rows, dynamo=False, opset=opset), module, rows)


@pytest.mark.parametrize("name", IMPORTED)
def test_an_imported_module_learns(name: str) -> None:
    make, shape = IMPORTED[name]
    module, rows = seeded(make, shape)
    network = imported(module, rows, dynamo=False).network
    (answers,) = network.predict({"x": rows}).values()
    target = answers + np.random.default_rng(1).standard_normal(answers.shape)
    before = after = None
    for _ in range(2):
        y, backward = network.forward({"x": rows}, training=True)
        off = y - np.moveaxis(target, 0, -1)
        before, after = after, float(np.mean(off**2))
        network.grad[...] = 0
        backward((2 / off.size * off).astype(np.float32))
        # so short a step that the slope decides
        size = float(np.sqrt(np.mean(network.grad**2)))
        network.value -= 1e-4 / max(size, 1e-12) * network.grad
    assert before is not None
    assert after is not None
    assert after < before


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("mobilenet v2 block", {Clip: 2}),
        ("mobilenet v3 block", {HardSwish: 2}),
        ("convnext block", {LayerNorm: 1, GELU: 1}),
        ("dense block", {BatchNorm: 3}),
        ("mlp of many functions", {SiLU: 1, LayerNorm: 1}),
        ("groups", {SiLU: 1, GroupNorm: 2}),
    ],
)
def test_what_is_written_out_becomes_one_layer(name: str, kinds: dict[type, int]) -> None:
    make, shape = IMPORTED[name]
    module, rows = seeded(make, shape)
    layers = [type(n.layer) for n in imported(module, rows, dynamo=False).network.nodes]
    assert {kind: layers.count(kind) for kind in kinds} == kinds


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_imported_is_named(name: str) -> None:
    make, shape, message = REFUSED[name]
    module, rows = seeded(make, shape)
    with pytest.raises(NotImportableError, match=message):
        imported(module, rows, dynamo=False)
