"""What the search tries of any ONNX file: cleaned, then quantized; nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from compress.candidates import Candidate, Plan
from compress.endings import Course
from compress.evaluate import fixed_batch
from compress.goal import Goal
from compress.graph_step import GraphStep
from compress.model_file import has_subgraphs, is_quantized, parameter_count
from compress.quantization.blocks import INT4_WEIGHTS, INT8_WEIGHTS
from compress.quantization.half import ToHalf
from compress.quantization.post_training import ways
from compress.recipe import Recipe
from compress.remake import calibration_rows
from compress.session import Session
from compress.simplify import Simplify, few_rows, simplify
from compress.verdict import Verdict
from hlserve.errors import CompressionError, ConfigError
from hlserve.nn.param import Array


@dataclass(frozen=True, slots=True)
class GraphPlanner:
    """Offers the files that a graph can become without training.

    Attributes:
        model: the original.
        session: that has it loaded.
        feeds: training rows as the model takes them, to calibrate with; labels play no part.
        plan: a share to prune or a recipe is refused, since the graph is not trained.
        notes: what could not be tried, and why, is added here.
        seed: of the choice of calibration rows.
    """

    model: onnx.ModelProto
    session: Session
    feeds: Mapping[str, Array]
    plan: Plan
    notes: list[str]
    seed: int = 0

    def ladder(self, goal: Goal) -> Course:
        """The candidates, in order; is sent every one's verdict."""
        found: list[Verdict] = []
        batch = fixed_batch(self.session)
        rows = calibration_rows(self.feeds, seed=self.seed)
        cleaned, left_out = simplify(self.model, few_rows(rows, batch=batch))
        self.notes.extend(left_out)
        if self.plan.quantize != "int8":
            found.append((yield _candidate("simplified", cleaned, (Simplify(),))))
        for way in self._ways(cleaned, goal):
            try:
                changed = way.apply(cleaned, rows, batch=batch)
            except CompressionError as error:
                reason = str(error).removeprefix(f"{way.name}: ")
                self.notes.append(f"{way.name} was left out: {reason}")
                continue
            found.append((yield _candidate(way.name, changed, (Simplify(), way))))
        return found

    def _ways(self, cleaned: onnx.ModelProto, goal: Goal) -> tuple[GraphStep, ...]:
        """Those worth trying on the cleaned graph."""
        if self.plan.half:
            return (ToHalf(),)
        if self.plan.quantize == "none" or not self._has_floats_to_quantize():
            return ()
        is_for_bytes = goal.minimize == "bytes" and self.plan.quantize is None
        return (*ways(cleaned), *((INT4_WEIGHTS, INT8_WEIGHTS) if is_for_bytes else ()))

    def _has_floats_to_quantize(self) -> bool:
        if is_quantized(self.model):
            self.notes.append("the file is quantized already; its integers are left as they are")
            return False
        if has_subgraphs(self.model):
            self.notes.append(
                "the bodies of If, Loop and Scan were left alone but for dynamic integers, since "
                "calibration does not see into them"
            )
        return True


def require_no_training(plan: Plan, reasons: str) -> None:
    """Refuses wishes that only a network that can be trained can fulfil.

    Raises:
        ConfigError: there is one; says why this file cannot be trained.
    """
    if plan.ratio is not None or plan.recipe is not None:
        asked = "--prune" if plan.ratio is not None else "--recipe"
        raise ConfigError(
            f"{asked} trains the network again, and this file cannot be trained: {reasons}. "
            "It can be quantized, or distilled into a --student"
        )


# ----- below


def _candidate(name: str, model: onnx.ModelProto, steps: tuple[GraphStep, ...]) -> Candidate:
    return Candidate(
        name,
        model.SerializeToString(),
        parameter_count(model),
        Recipe((), endings=steps).to_toml(),
        family="graph",
    )
