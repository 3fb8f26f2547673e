"""Networks in PyTorch as others train and export them; for ``compression_exports`` alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10


class ResNet18(nn.Module):
    """He et al. 2016, table 1, 18 layers: stem of stride 2 with pooling, basic blocks of 64 to 512.

    Shapes: (batch, 1, 32, 32) -> (batch, classes), logits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        widths = [64, 64, 128, 256, 512]
        self.blocks = nn.Sequential(
            *(
                _Basic(widths[stage] if first else widths[stage + 1], widths[stage + 1], stride)
                for stage in range(4)
                for first, stride in ((True, 1 if stage == 0 else 2), (False, 1))
            )
        )
        self.head = nn.Linear(512, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        y = self.blocks(self.stem(x))
        return self.head(functional.adaptive_avg_pool2d(y, 1).flatten(1))


class _Basic(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(n_in, n_out, 3, stride)
        self.second = _convolution(n_out, n_out, 3, 1)
        is_same = n_in == n_out and stride == 1
        self.shortcut = nn.Identity() if is_same else _convolution(n_in, n_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(torch.relu(self.first(x)))
        return torch.relu(y + self.shortcut(x))


class MobileNetV2(nn.Module):
    """Sandler et al. 2018, table 2, at width 1; strides for small images, 16 in all.

    Shapes: (batch, 1, 32, 32) -> (batch, classes), logits.
    """

    #: expansion, channels, repeats, first stride
    STAGES = (
        *((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    )

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(1, 32, 3, 2), nn.ReLU6()]
        width = 32
        for expansion, channels, repeats, stride in self.STAGES:
            for number in range(repeats):
                layers.append(_Inverted(width, channels, expansion, stride if number == 0 else 1))
                width = channels
        self.features = nn.Sequential(*layers, _convolution(width, 1280, 1, 1), nn.ReLU6())
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        return self.head(self.features(x).mean(dim=(2, 3)))


class _Inverted(nn.Module):
    def __init__(self, n_in: int, n_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = n_in * expansion
        wide = [] if expansion == 1 else [_convolution(n_in, hidden, 1, 1), nn.ReLU6()]
        depthwise = _convolution(hidden, hidden, 3, stride, groups=hidden)
        self.inner = nn.Sequential(*wide, depthwise, nn.ReLU6(), _convolution(hidden, n_out, 1, 1))
        self.is_residual = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x) if self.is_residual else self.inner(x)


class TransformerClassifier(nn.Module):
    """An encoder (Vaswani et al. 2017, norms first) and the mean over the words that there are.

    Shapes: ids (batch, time), int64, 0 is padding -> (batch, 2), logits.
    """

    def __init__(self, n_ids: int, time: int, dim: int = 128, n_blocks: int = 2) -> None:
        super().__init__()
        self.words = nn.Embedding(n_ids, dim, padding_idx=0)
        self.places = nn.Parameter(torch.randn(time, dim) * 0.02)
        self.blocks = nn.ModuleList(_Encoder(dim, heads=4) for _ in range(n_blocks))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 2)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of sentences."""
        is_word = ids != 0
        y = self.words(ids) + self.places
        for block in self.blocks:
            y = block(y, is_word[:, None, None, :])
        weights = is_word.to(y.dtype)[..., None]
        return self.head((self.norm(y) * weights).sum(1) / weights.sum(1).clamp(min=1.0))


class _Encoder(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.feed = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, time, dim = x.shape
        parts = self.qkv(self.norms[0](x)).view(batch, time, 3, self.heads, dim // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.dropout(self.out(y.transpose(1, 2).reshape(batch, time, dim)))
        return x + self.dropout(self.feed(self.norms[1](x)))


class LstmClassifier(nn.Module):
    """One LSTM over an image's rows and its last state: (batch, 28, 28) -> (batch, classes)."""

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.lstm = nn.LSTM(28, hidden, batch_first=True)
        self.head = nn.Linear(hidden, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images, read row by row."""
        y, _ = self.lstm(x)
        return self.head(y[:, -1])


def _convolution(n_in: int, n_out: int, size: int, stride: int, groups: int = 1) -> nn.Sequential:
    """With batch normalization behind it."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, size, stride, padding=size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(n_out),
    )
