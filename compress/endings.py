"""How a trained network ends in files: in floats, in half of their bits, or in integers.

Half is for graphics processors, integers are for others. Their ladder stops at the first rung
inside the bound: ranges of all that was seen, ranges without outliers, ranges of least error,
biases corrected, and at last the most delicate layers kept in floats.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace

from compress.candidates import Candidate, Plan
from compress.clock import Clock
from compress.folding import FoldBatchNorm, FoldScale
from compress.goal import Goal
from compress.graph_step import GraphStep
from compress.quantization import QuantizeStatic
from compress.quantization.blocks import INT4_WEIGHTS
from compress.quantization.half import ToHalf
from compress.quantization.placement import Placement, place
from compress.quantization.post_training import DYNAMIC_LSTM
from compress.quantization.sensitivity import layer_damage
from compress.recipe import Recipe
from compress.remake import PARITY_ROWS, Remade, exported, remake
from compress.stem import Grown
from compress.technique import Compressed, Data, Kinds, Report, Technique, affordable_rows
from compress.trainee import take_steps
from compress.verdict import Verdict
from hlserve.errors import CompressionError
from hlserve.nn.layers import LSTM, BatchNorm, Linear
from hlserve.nn.network import Network

FEWEST_CALIBRATION_ROWS = 64
MOST_KEPT_FLOAT = 2  # layers; with more little is left of the gain

Course = Generator[Candidate, Verdict, list[Verdict]]


@dataclass(frozen=True, slots=True)
class Endings:
    """The files of a network.

    Attributes:
        data: rows to calibrate with.
        plan: which endings are wanted at all.
        goal: what is asked for; decides whether slow endings are worth trying.
        notes: what could not be made, and why, is added here.
        clock: the time that is left; without any the ladder is not climbed.
    """

    data: Data
    plan: Plan
    goal: Goal
    notes: list[str]
    clock: Clock = field(default_factory=Clock)

    def of(self, grown: Grown) -> Course:
        """Candidates in turn; is sent each one's verdict, and answers all of them."""
        folded = self._taken(grown.stem.name or "folding", grown.network, folding(grown.network))
        if folded is None:
            return []
        base = _Base(grown, folded, self.data)
        verdicts: list[Verdict] = []
        if self.plan.quantize != "int8":
            verdicts.append((yield base.candidate("")))
        if self.plan.half:
            verdicts += yield from self._in_graph(base, (ToHalf(),))
        if self.plan.quantize == "none":
            return verdicts
        is_inside = all(not verdict.refusal for verdict in verdicts)
        last: Placement | None = None
        for kinds in ("all", "linear"):
            placement = place(folded.network, kinds)
            if placement.layers and placement != last:
                verdicts += yield from self._integers(base, kinds, is_inside)
                last = placement
        if any(isinstance(node.layer, LSTM) for node in base.network.nodes):
            verdicts += yield from self._in_graph(base, (DYNAMIC_LSTM,))
        if self.goal.minimize == "bytes" and self.plan.quantize is None and _has_dense(base):
            verdicts += yield from self._in_graph(base, (INT4_WEIGHTS,))
        return verdicts

    # ----- below

    def _integers(self, base: _Base, kinds: Kinds, is_inside: bool) -> Course:
        verdicts: list[Verdict] = []
        for rung in self._rungs(base, kinds):
            name = rung_name(rung)
            done = self._taken(name, base.network, (rung,))
            if done is None:
                break
            verdicts.append((yield base.candidate(name, rung, done)))
            if not verdicts[-1].refusal:
                if rung.per_channel and self.goal.minimize != "bytes":
                    verdicts += yield from self._per_tensor(base, rung)
                break
            if not is_inside or not self.clock.left_s:  # the floats are outside: no rung helps
                break
        return verdicts

    def _per_tensor(self, base: _Base, rung: QuantizeStatic) -> Course:
        """One scale for all weights of a layer: less exact, and faster for single rows."""
        coarse = replace(rung, per_channel=False)
        done = self._taken(rung_name(coarse), base.network, (coarse,))
        return [] if done is None else [(yield base.candidate(rung_name(coarse), coarse, done))]

    def _rungs(self, base: _Base, kinds: Kinds) -> Iterator[QuantizeStatic]:
        most = QuantizeStatic().rows
        rows = affordable_rows(base.network, most, fewest=FEWEST_CALIBRATION_ROWS)
        first = QuantizeStatic(layers=kinds, rows=rows)
        cut = replace(first, observer="percentile")
        corrected = replace(cut, bias_correction=True)
        yield from (first, cut, replace(first, observer="mse"), corrected)
        damage = layer_damage(base.network, self.data, corrected)
        worst = sorted(damage, key=lambda name: (-damage[name], name))
        for n in range(1, min(MOST_KEPT_FLOAT, len(worst) - 1) + 1):
            yield replace(corrected, keep_float=tuple(sorted(worst[:n])))

    def _in_graph(self, base: _Base, steps: tuple[GraphStep, ...]) -> Course:
        """Endings that only a file can have: operators that no layer of ours is spelled with."""
        verdicts: list[Verdict] = []
        for step in steps:
            try:
                candidate = base.ended(step)
            except CompressionError as error:
                reason = str(error).removeprefix(f"{step.name}: ")
                note = f"{step.name} was left out: {reason}"
                if note not in self.notes:  # it may hold of every network
                    self.notes.append(note)
                continue
            verdicts.append((yield candidate))
        return verdicts

    def _taken(
        self, name: str, network: Network, steps: tuple[Technique, ...]
    ) -> Compressed | None:
        try:
            return take_steps(network, Recipe(steps), self.data)
        except CompressionError as error:
            self.notes.append(f"{name} was left out: {error}")
            return None


def folding(network: Network) -> tuple[Technique, ...]:
    """What every ending begins with.

    It comes behind training: a first layer with the scale inside it needs other learning rates.
    """
    has_batch_norm = any(isinstance(node.layer, BatchNorm) for node in network.nodes)
    return (FoldBatchNorm(), FoldScale()) if has_batch_norm else (FoldScale(),)


def rung_name(step: QuantizeStatic) -> str:
    """The integers in words."""
    words = ["dense int8" if step.layers == "linear" else "int8"]
    if not step.per_channel:
        words.append("per tensor")
    if step.keep_float:
        words.append(f"but for {', '.join(step.keep_float)}")
    elif step.bias_correction:
        words.append("with corrected biases")
    elif step.observer == "percentile":
        words.append("without outliers")
    elif step.observer == "mse":
        words.append("of least error")
    return " ".join(words)


# ----- below


@dataclass(frozen=True, slots=True)
class _Base:
    """A network that was grown and folded: what every ending starts from."""

    grown: Grown
    folded: Compressed
    data: Data

    @property
    def network(self) -> Network:
        return self.folded.network

    @property
    def steps(self) -> tuple[Technique, ...]:
        return (*self.grown.stem.steps, *folding(self.grown.network))

    @property
    def reports(self) -> tuple[Report, ...]:
        return (*self.grown.reports, *self.folded.reports)

    def candidate(
        self, ending: str, step: QuantizeStatic | None = None, done: Compressed | None = None
    ) -> Candidate:
        """The file of the folded network, or of what one more step made of it."""
        network, reports, steps = self.network, self.reports, self.steps
        if step is not None and done is not None:
            network, reports, steps = done.network, (*reports, *done.reports), (*steps, step)
        rows = self.data.train.take(slice(0, PARITY_ROWS)).inputs
        made = Remade(exported(network, rows).SerializeToString(), network, reports)
        return self._offered(ending, Recipe(steps), made)

    def ended(self, step: GraphStep) -> Candidate:
        """The file of the folded network after a step on its graph."""
        made = remake(self.network, Recipe((), endings=(step,)), self.data, seed=self.data.seed)
        whole = replace(made, reports=(*self.reports, *made.reports))
        return self._offered(step.name, Recipe(self.steps, endings=(step,)), whole)

    def _offered(self, ending: str, recipe: Recipe, made: Remade) -> Candidate:
        stem = self.grown.stem
        name = ", ".join(part for part in (stem.name, ending) if part) or "folded"
        return Candidate.of_network(name, stem.family, recipe, made)


def _has_dense(base: _Base) -> bool:
    return any(isinstance(node.layer, Linear) for node in base.network.nodes)
