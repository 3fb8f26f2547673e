"""What stands out in a layer's statistics."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from hlserve.report.learning import LayerHealth

MANY_DEAD = 0.3  # a ReLU network keeps some silent units; a third of them is lost width
MANY_SATURATED = 0.5
FLAT_STD = 1e-3  # relative to the mean: all rows look alike from here on
TINY_GRADIENT, HUGE_GRADIENT = 1e-3, 1e3  # against the last layer, relative to the weights


def with_flags(layers: Sequence[LayerHealth]) -> tuple[LayerHealth, ...]:
    """The same layers, each with what stands out."""
    last = next((g for layer in reversed(layers) if (g := relative_gradient(layer))), None)
    return tuple(msgspec.structs.replace(layer, flags=_flags(layer, last)) for layer in layers)


def relative_gradient(layer: LayerHealth) -> float | None:
    """The gradient's size relative to the weights'; None without parameters."""
    if layer.gradient_rms is None or not layer.weight_rms:
        return None
    return layer.gradient_rms / layer.weight_rms


def _flags(layer: LayerHealth, last: float | None) -> tuple[str, ...]:
    flags = []
    if layer.dead is not None and layer.dead >= MANY_DEAD:
        flags.append(f"{layer.dead:.0%} of its units are dead")
    if layer.saturated is not None and layer.saturated >= MANY_SATURATED:
        flags.append(f"{layer.saturated:.0%} saturated")
    if layer.std <= FLAT_STD * abs(layer.mean):
        flags.append("hardly varies")
    relative = relative_gradient(layer)
    if relative is not None and last:
        if relative < TINY_GRADIENT * last:
            flags.append("gradient vanishes")
        elif relative > HUGE_GRADIENT * last:
            flags.append("gradient explodes")
    return tuple(flags)
