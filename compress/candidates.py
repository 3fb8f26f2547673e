"""What the search tries, in order: for networks that can be retrained, and for any ONNX file.

A ladder is a generator of candidates. It is sent whether the last one stayed inside the bound,
so that it stops pruning where the network has had enough.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
import onnx

from compress.distillation import Distill
from compress.evaluate import fixed_batch
from compress.export import check_parity, to_onnx
from compress.folding import FoldBatchNorm, FoldScale
from compress.model_file import (
    has_subgraphs,
    is_quantized,
    parameter_count,
)
from compress.pruning import PruneChannels
from compress.pruning.channels import removable_widths, rounded_width
from compress.quantization import QuantizeStatic
from compress.quantization.placement import Placement, place
from compress.quantization.post_training import DYNAMIC_LSTM, PostTraining, ways
from compress.recipe import Recipe, ending_table, steps_to_toml
from compress.session import Session
from compress.simplify import simplify
from compress.technique import Compressed, Data, Kinds, Report, Technique
from hlserve.errors import CompressionError, ConfigError
from hlserve.nn.layers import LSTM, BatchNorm
from hlserve.nn.network import Network
from hlserve.nn.param import Array

RATIOS = (0.5, 0.65, 0.75, 0.85, 0.92)  # of the units pruned, while the last one stayed inside
GENTLE_RATIO = 0.25  # where the first of them was too much
CALIBRATION_ROWS = 512
PARITY_ROWS = 32

FINE_TUNING_STEPS = 2400  # of the optimizer; an epoch of few rows has few
FEWEST_EPOCHS, MOST_EPOCHS = 4, 8
STUDENT_EPOCHS = 12, 150  # a student starts from nothing, and may take larger steps
STUDENT_LEARNING_RATE = 3e-3


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may take the original's place.

    Attributes:
        name: what was done, in words.
        model: the ONNX file.
        parameters: numbers that its weights hold.
        recipe: its steps as TOML; empty for the original.
        steps: what each step of a recipe did, where the network was ours.
    """

    name: str
    model: bytes
    parameters: int
    recipe: str = ""
    steps: tuple[Report, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Of the ONNX file."""
        return len(self.model)


Ladder = Generator[Candidate, bool, None]
Ending = tuple[str, tuple[Technique, ...]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the user narrows the search to; None and the default leave it to the search.

    Attributes:
        ratio: the only share of units to prune.
        quantize: ``int8`` tries integers only, ``none`` floats only.
        recipe: the only steps to try.
        student: a fresh network to distil into, in place of pruning.
    """

    ratio: float | None = None
    quantize: str | None = None
    recipe: Recipe | None = None
    student: Network | None = None

    def __post_init__(self) -> None:
        if self.quantize not in (None, "int8", "none"):
            raise ConfigError(f"quantize is {self.quantize!r}, expected 'int8' or 'none'")
        if self.recipe is not None and (self.ratio, self.quantize, self.student) != (None,) * 3:
            raise ConfigError("a recipe says every step; leave prune, quantize and student out")
        if self.student is not None and self.ratio is not None:
            raise ConfigError("give either a student or a share to prune, not both")

    @property
    def endings(self) -> tuple[Ending, ...]:
        """How a float network ends: as it is, in integers, or each in turn."""
        floats: tuple[Ending, ...] = (("", ()),)
        integers: tuple[Ending, ...] = (
            ("int8", (QuantizeStatic(),)),
            ("dense int8", (QuantizeStatic(layers="linear"),)),
        )
        return {"int8": integers, "none": floats}.get(self.quantize or "", floats + integers)


def network_ladder(network: Network, data: Data, plan: Plan, notes: list[str]) -> Ladder:
    """Candidates from a network of ours: folded, pruned and distilled, quantized.

    Args:
        network: the original, in floats.
        data: rows to learn from, with the teacher's answers.
        plan: see Plan.
        notes: what could not be tried, and why, is added here.
    """
    if plan.recipe is not None:
        yield _offered("recipe", network, plan.recipe, data)
        return
    if plan.student is not None:
        yield from _student_rungs(plan.student, data, plan, notes)
        return
    if plan.ratio is None:
        yield from _with_endings("", network, _folding(network), data, plan, notes)
    yield from _pruning_rungs(network, data, plan, notes)


def onnx_ladder(
    model: onnx.ModelProto,
    session: Session,
    feeds: Mapping[str, Array],
    plan: Plan,
    notes: list[str],
    *,
    seed: int = 0,
) -> Ladder:
    """Candidates from any ONNX file: cleaned, then quantized by ONNX Runtime's own quantizer.

    Args:
        model: the original.
        session: that has it loaded.
        feeds: training rows as the model takes them, to calibrate with; labels play no part.
        plan: a share to prune or a recipe is refused, since a graph from elsewhere is not trained.
        notes: as in ``network_ladder``.
        seed: of the choice of calibration rows.

    Raises:
        ConfigError: the plan asks for training.
    """
    if plan.ratio is not None or plan.recipe is not None:
        asked = "--prune" if plan.ratio is not None else "--recipe"
        raise ConfigError(
            f"{asked} trains the network again, which works on checkpoints of `hlserve train`; "
            "an ONNX file can be quantized, or distilled into a --student"
        )
    batch = fixed_batch(session)
    rows = _some(feeds, CALIBRATION_ROWS, seed)
    few = {name: array[: batch or PARITY_ROWS] for name, array in rows.items()}
    if batch:
        few = {name: np.resize(array, (batch, *array.shape[1:])) for name, array in few.items()}
    cleaned, left_out = simplify(model, few)
    notes += left_out
    if plan.quantize != "int8":
        yield _from_onnx("simplified", cleaned, [{"technique": "Simplify"}])
    if plan.quantize == "none":
        return
    if is_quantized(model):
        notes.append("the file is quantized already; its integers are left as they are")
        return
    if has_subgraphs(model):
        notes.append(
            "the bodies of If, Loop and Scan were left alone but for dynamic integers, since "
            "calibration does not see into them"
        )
    for way in ways(cleaned):
        try:
            changed = way.apply(cleaned, rows, batch=batch)
        except CompressionError as error:
            notes.append(f"{way.name} was left out: {error}")
            continue
        steps = [{"technique": "Simplify"}, ending_table(way)]
        yield _from_onnx(way.name, changed, steps)


def default_distill(n_rows: int, *, is_student: bool = False) -> Distill:
    """As long as it takes for about the same number of steps, however few the rows."""
    usual = Distill(learning_rate=STUDENT_LEARNING_RATE) if is_student else Distill()
    fewest, most = STUDENT_EPOCHS if is_student else (FEWEST_EPOCHS, MOST_EPOCHS)
    epochs = ceil(FINE_TUNING_STEPS / max(1, ceil(n_rows / usual.batch_size)))
    return replace(usual, epochs=min(most, max(fewest, epochs)))


# ----- below


def _pruning_rungs(network: Network, data: Data, plan: Plan, notes: list[str]) -> Ladder:
    """All layers, then, where there are convolutions, the others alone."""
    yield from _pruning_rungs_of("all", network, data, plan, notes)
    if removable_widths(network, "linear") not in ([], removable_widths(network)):
        yield from _pruning_rungs_of("linear", network, data, plan, notes)


def _pruning_rungs_of(
    layers: Kinds, network: Network, data: Data, plan: Plan, notes: list[str]
) -> Ladder:
    full = last = removable_widths(network, layers)
    where = "" if layers == "all" else "dense "
    for ratio in RATIOS if plan.ratio is None else (plan.ratio,):
        step = PruneChannels(ratio, layers=layers)
        name = f"{where}pruned {_percent(ratio)}"
        widths = [rounded_width(width, 1 - ratio, step.round_to) for width in full]
        if widths == last:
            notes.append(f"{name} was left out: it removes no more, widths stay multiples of 8")
            continue
        last = widths
        if (yield from _pruned(name, step, network, data, plan, notes)):
            continue
        if ratio == RATIOS[0] and plan.ratio is None:
            step = PruneChannels(GENTLE_RATIO, layers=layers)
            name = f"{where}pruned {_percent(GENTLE_RATIO)}"
            yield from _pruned(name, step, network, data, plan, notes)
        return


def _pruned(
    name: str, step: Technique, network: Network, data: Data, plan: Plan, notes: list[str]
) -> Generator[Candidate, bool, bool]:
    # Folded last: a first layer with the scale inside it needs other learning rates.
    steps = (step, default_distill(len(data.train)), *_folding(network))
    return (yield from _with_endings(name, network, steps, data, plan, notes))


def _student_rungs(student: Network, data: Data, plan: Plan, notes: list[str]) -> Ladder:
    steps = (default_distill(len(data.train), is_student=True), *_folding(student))
    yield from _with_endings("student", student, steps, data, plan, notes)


def _folding(network: Network) -> tuple[Technique, ...]:
    has_batch_norm = any(isinstance(node.layer, BatchNorm) for node in network.nodes)
    return (FoldBatchNorm(), FoldScale()) if has_batch_norm else (FoldScale(),)


def _with_endings(
    name: str,
    network: Network,
    steps: tuple[Technique, ...],
    data: Data,
    plan: Plan,
    notes: list[str],
) -> Generator[Candidate, bool, bool]:
    """The steps once, then each ending; answers whether any of them stayed inside."""
    shared = _tried(name or "folding", network, steps, data, notes)
    if shared is None:
        return False
    is_inside = False
    last: Placement | None = None
    for ending, more in plan.endings:
        done = shared
        if more:
            placement = _placement(shared.network, more)
            if not placement.layers or placement == last:
                continue
            last = placement
            found = _tried(ending, shared.network, more, data, notes)
            if found is None:
                continue
            done = Compressed(found.network, shared.reports + found.reports)
        full = ", ".join(part for part in (name, ending) if part) or "folded"
        recipe = Recipe((*steps, *more)).to_toml()
        is_inside |= yield _from_network(full, done.network, recipe, done.reports, data)
    is_inside |= yield from _with_integer_lstm(name, shared, steps, data, plan, notes)
    return is_inside


def _placement(network: Network, steps: tuple[Technique, ...]) -> Placement:
    (step,) = steps
    assert isinstance(step, QuantizeStatic)  # as endings are
    return place(network, step.layers)


def _with_integer_lstm(
    name: str,
    shared: Compressed,
    steps: tuple[Technique, ...],
    data: Data,
    plan: Plan,
    notes: list[str],
) -> Generator[Candidate, bool, bool]:
    """The one ending that only a file can have: its operator is ONNX Runtime's own."""
    has_lstm = any(isinstance(node.layer, LSTM) for node in shared.network.nodes)
    if plan.quantize == "none" or not has_lstm:
        return False
    full = ", ".join(part for part in (name, DYNAMIC_LSTM.name) if part)
    recipe = Recipe(steps, ending=DYNAMIC_LSTM).to_toml()
    candidate = _from_network(full, shared.network, recipe, shared.reports, data)
    try:
        ended = _ended(candidate, DYNAMIC_LSTM, shared.network)
    except CompressionError as error:
        notes.append(f"{full} was left out: {error}")
        return False
    return (yield ended)


def _ended(candidate: Candidate, way: PostTraining, network: Network) -> Candidate:
    """The same candidate with its file quantized."""
    started = time.perf_counter()
    model = way.apply(onnx.load_model_from_string(candidate.model), {}).SerializeToString()
    table = ending_table(way)
    report = Report(
        technique=table.pop("technique"),
        settings=table,
        parameters=candidate.parameters,
        macs=network.macs(),
        size_bytes=len(model),
        seconds=time.perf_counter() - started,
    )
    return replace(candidate, model=model, steps=(*candidate.steps, report))


def _offered(name: str, network: Network, recipe: Recipe, data: Data) -> Candidate:
    """One recipe: what goes wrong in it is the user's to know, so it is raised."""
    done = recipe.apply(network, data)
    candidate = _from_network(name, done.network, recipe.to_toml(), done.reports, data)
    return candidate if recipe.ending is None else _ended(candidate, recipe.ending, done.network)


def _tried(
    name: str, network: Network, steps: tuple[Technique, ...], data: Data, notes: list[str]
) -> Compressed | None:
    try:
        return Recipe(steps).apply(network, data)
    except CompressionError as error:
        notes.append(f"{name} was left out: {error}")
        return None


def _from_network(
    name: str, network: Network, recipe: str, reports: tuple[Report, ...], data: Data
) -> Candidate:
    model = to_onnx(network)
    if not network.activation_qparams:
        check_parity(network, model, data.train.take(slice(0, PARITY_ROWS)).inputs)
    return Candidate(name, model.SerializeToString(), network.n_parameters, recipe, reports)


def _from_onnx(name: str, model: onnx.ModelProto, steps: list[dict[str, Any]]) -> Candidate:
    return Candidate(name, model.SerializeToString(), parameter_count(model), steps_to_toml(steps))


def _some(feeds: Mapping[str, Array], n: int, seed: int) -> dict[str, Array]:
    total = len(next(iter(feeds.values())))
    chosen = np.sort(np.random.default_rng(seed).permutation(total)[:n])
    return {name: array[chosen] for name, array in feeds.items()}


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.0f} %"
