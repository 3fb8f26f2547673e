"""What a spec may add to an architecture: ``mlp:300,100,gelu,dropout=0.2``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from hlserve.errors import ConfigError
from hlserve.nn.layer import Layer
from hlserve.nn.layers import GELU, LeakyReLU, ReLU, SiLU, Tanh

_CLASSES = (GELU, LeakyReLU, ReLU, SiLU, Tanh)
ACTIVATIONS = tuple(kind.__name__.lower() for kind in _CLASSES)  # the word of each
_DROPOUT = "dropout="


@final
@dataclass(frozen=True, slots=True)
class SpecOptions:
    """The words behind an architecture, each at most once.

    Attributes:
        activation: stands wherever the architecture has ReLU.
        dropout: the rate on embeddings and on what each dense layer reads, but on the network's
            own input.
    """

    activation: str = "relu"
    dropout: float = 0.0

    def __str__(self) -> str:
        """As a spec says it, with the comma ahead of each word; empty where nothing differs."""
        word = "" if self.activation == "relu" else f",{self.activation}"
        return word if not self.dropout else f"{word},{_DROPOUT}{self.dropout:g}"

    def in_place_of(self, layer: Layer) -> Layer:
        """The activation for a ReLU, any other layer as it is."""
        return _CLASSES[ACTIVATIONS.index(self.activation)]() if isinstance(layer, ReLU) else layer


def split_options(spec: str) -> tuple[str, SpecOptions]:
    """The spec without its options, and these: ``mlp:64,tanh`` is ``mlp:64`` with tanh.

    Raises:
        ConfigError: an option stands twice, or a dropout is no rate.
    """
    kept: list[str] = []
    found: dict[str, str] = {}
    for word in spec.split(","):
        name = _option_of(word.strip())
        if name is None:
            kept.append(word)
        elif name in found:
            raise ConfigError(f"architecture {spec!r}: the {name} is said twice")
        else:
            found[name] = word.strip()
    rate = _rate(spec, found["dropout"]) if "dropout" in found else 0.0
    return ",".join(kept), SpecOptions(found.get("activation", "relu"), rate)


def _option_of(word: str) -> str | None:
    if word in ACTIVATIONS:
        return "activation"
    return "dropout" if word.startswith(_DROPOUT) else None


def _rate(spec: str, word: str) -> float:
    text = word.removeprefix(_DROPOUT)
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate < 1:
        raise ConfigError(f"architecture {spec!r}: dropout is {text!r}, expected 0 to below 1")
    return rate
