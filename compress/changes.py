"""What became of each layer, and why: for the report and `hlserve inspect`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.technique import Report
from hlserve.nn.network import Network, Node

_FOLDED = {"FoldBatchNorm": "BatchNorm", "FoldScale": "Scale"}


@dataclass(frozen=True, slots=True)
class LayerChange:
    """One layer, before and after.

    Attributes:
        name: of the original's node; of the new one where there was none.
        kind: the layer's class.
        before, after: the shape of the weight, (out, in, ...), and how many numbers all its
            parameters hold; None where there is no such layer.
        number_format: of the weight in the file: ``float32``, ``float16``, ``int8`` or ``int4``.
        why: in words.
    """

    name: str
    kind: str
    before: tuple[tuple[int, ...], int] | None
    after: tuple[tuple[int, ...], int] | None
    number_format: str
    why: str

    def described(self) -> dict[str, Any]:
        """As JSON can hold it."""
        row: dict[str, Any] = {"name": self.name, "kind": self.kind, "why": self.why}
        if self.before is not None:
            row["before"] = {"shape": list(self.before[0]), "parameters": self.before[1]}
        if self.after is not None:
            row["after"] = {
                "shape": list(self.after[0]),
                "parameters": self.after[1],
                "format": self.number_format,
            }
        return row


def layer_changes(
    before: Network, after: Network, steps: Sequence[Report], formats: Mapping[str, str]
) -> tuple[LayerChange, ...]:
    """Every layer with parameters, in the original's order; parts of a factorized one behind it.

    Args:
        before: the original.
        after: what the file was made of.
        steps: of the recipe.
        formats: of the file's weights, by name; what steps on the file made of them.
    """
    new = {node.name: node for node in after.nodes if node.layer.params()}
    found: list[LayerChange] = []
    for node in before.nodes:
        if not node.layer.params():
            continue
        parts = [name for name in new if name == node.name or name.startswith(f"{node.name}.")]
        if not parts:
            found.append(_gone(node, steps))
        for name in parts:
            found.append(_kept(node, new.pop(name), steps, formats))
    found += [_kept(None, node, steps, formats) for node in new.values()]
    return tuple(found)


# ----- below


def _gone(node: Node, steps: Sequence[Report]) -> LayerChange:
    kind = type(node.layer).__name__
    is_folded = any(_FOLDED.get(step.technique) == kind for step in steps)
    why = "folded into the layer ahead of it" if is_folded else "no longer needed"
    return LayerChange(node.name, kind, _sizes(node), None, "", why)


def _kept(
    old: Node | None, new: Node, steps: Sequence[Report], formats: Mapping[str, str]
) -> LayerChange:
    before = None if old is None else _sizes(old)
    number_format = _format(new, steps, formats)
    reasons = [_shape_reason(old, new), _format_reason(new, steps, number_format)]
    return LayerChange(
        new.name,
        type(new.layer).__name__,
        before,
        _sizes(new),
        number_format,
        "; ".join(reason for reason in reasons if reason) or "kept as it was",
    )


def _shape_reason(old: Node | None, new: Node) -> str:
    if old is None:
        return "new"
    was, now = _sizes(old)[0], _sizes(new)[0]
    if new.name != old.name:
        rank = min(now)
        return f"one of two factors of rank {rank}: fewer products, least error on training rows"
    if was == now:
        return ""
    words = []
    if was[0] != now[0]:
        words.append(f"{was[0] - now[0]} of {was[0]} units pruned, those that matter least")
    if was[1:2] != now[1:2]:
        words.append("inputs of pruned units dropped")
    return ", ".join(words)


def _format(new: Node, steps: Sequence[Report], formats: Mapping[str, str]) -> str:
    """What the weight is in the file, whose steps put other names behind the layer's own."""
    if any(p.qparams is not None for p in new.layer.params().values()):
        return "int8"
    own = {kind for name, kind in formats.items() if name.startswith(f"{new.name}.weight")}
    for kind in ("float16", "int8"):
        if kind in own:
            return kind
    blocks = [step for step in steps if step.technique == "BlockWeights"]
    if blocks and "uint8" in own:
        return f"int{blocks[-1].settings['bits']}"
    return "float32"


def _format_reason(new: Node, steps: Sequence[Report], number_format: str) -> str:
    quantized = [step for step in steps if step.technique == "QuantizeStatic"]
    if any(step.technique == "BlockWeights" for step in steps) and number_format != "float32":
        return f"{number_format}: the weights alone, for the fewest bytes"
    if number_format == "float16":
        return "float16: weights and values fit into half the bits"
    if number_format == "int8":
        return "int8: it fuses into one integer operator"
    if not quantized:
        return ""
    if new.name in quantized[-1].settings.get("keep_float", ()):
        return "kept in floats: integers here cost the most accuracy"
    return "kept in floats: no integer operator fuses here"


def _sizes(node: Node) -> tuple[tuple[int, ...], int]:
    params = node.layer.params()
    weight = params.get("weight") or max(params.values(), key=lambda p: p.value.size)
    return tuple(weight.value.shape), sum(p.value.size for p in params.values())
