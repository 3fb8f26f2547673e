"""Why it went as it did: what pruning costs group by group, and integers layer by layer."""

from __future__ import annotations

from typing import Any

from compress.endings import folding
from compress.pruning import groups, pruning_losses, width_grid
from compress.quantization import QuantizeStatic
from compress.quantization.sensitivity import layer_damage
from compress.recipe import Recipe
from compress.shaping import importance_for
from compress.technique import Data, affordable_rows
from compress.trainee import take_steps
from hlserve.nn.network import Network

ROWS = 512  # to calibrate with, at most


def sensitivity(network: Network, data: Data, kept_float: tuple[str, ...]) -> dict[str, Any]:
    """The part ``sensitivity`` of the report.

    Args:
        network: the original, in floats.
        data: training rows.
        kept_float: layers that the chosen recipe keeps in floats.
    """
    grid = [width_grid(group.width) for group in groups(network)]
    losses = pruning_losses(network, data, grid, importance=importance_for(data)) if grid else ()
    pruning = [
        {
            "group": loss.group.name,
            "width": loss.group.width,
            "losses": [list(pair) for pair in zip(loss.widths, loss.losses, strict=True)],
        }
        for loss in losses
    ]
    folded = take_steps(network, Recipe(folding(network)), data).network
    damage = layer_damage(folded, data, QuantizeStatic(rows=affordable_rows(folded, ROWS)))
    quantization = [
        {"layer": name, "damage": value, "kept_float": name in kept_float}
        for name, value in damage.items()
    ]
    return {"pruning": pruning, "quantization": quantization}
