"""Measure and choose: the fastest or smallest model that keeps the metric inside a bound.

Accuracy is compared row by row with the original's, on rows that no candidate learned from.
Latency is measured here and now, original and candidates taking turns. What is slower or
outside the bound is not handed back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import onnx

from compress.bound import Drop
from compress.candidates import Candidate, Ladder, Plan, network_ladder, onnx_ladder
from compress.evaluate import Judge, bind_rows, make_judge
from compress.export import check, to_onnx
from compress.latency import Latency, SpeedUp, batch_sizes, measure, speed_up
from compress.metric import Metric
from compress.model_file import parameter_count
from compress.session import Session
from compress.technique import Data
from hlserve.datasets import Rows
from hlserve.errors import (
    BoundNotMetError,
    CompressionError,
    ConfigError,
    DataError,
    ModelFileError,
)
from hlserve.nn.network import Network
from hlserve.nn.param import Array

Minimize = Literal["latency", "bytes"]
Tell = Callable[[str], None]

TIMING_BUDGET_S = 6.0
CONFIRMATION_BUDGET_S = 3.0
EQUAL_WITHIN = 0.10  # latencies this close are taken as equal; then the smaller file wins
ORIGINAL = "original"

MINIMUM_SPEED_UP = 1.02  # over all batch sizes; less is no reason to change a model

# A proven gain below both of these gives way to a larger one that is only estimated.
NOTABLE_SPEED_UP = 1.1
NOTABLE_SIZE_RATIO = 1.5


@dataclass(frozen=True, slots=True)
class Goal:
    """What is asked of the result.

    Attributes:
        max_drop: in the metric's own unit.
        minimize: ``latency``, over all batch sizes, or ``bytes``, for which alone a slower
            model may be handed back.
        batches: rows a run to measure at.
        require_proof: whether the drop's upper bound, not its estimate, must keep the bound.
    """

    max_drop: float
    minimize: Minimize = "latency"
    batches: tuple[int, ...] = (1, 32)
    require_proof: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_drop) and self.max_drop >= 0):
            raise ConfigError(f"max_drop is {self.max_drop}, expected a number from 0")
        if self.minimize not in ("latency", "bytes"):
            raise ConfigError(f"minimize is {self.minimize!r}, expected 'latency' or 'bytes'")
        if not self.batches or min(self.batches) < 1:
            raise ConfigError(f"batches are {self.batches}, expected sizes from 1")


@dataclass(slots=True)
class Verdict:
    """What was found about one candidate.

    Attributes:
        candidate: the model.
        value: the metric's mean on the evaluation rows.
        drop: against the original.
        latency, speed_up: by batch size; empty where it was not worth measuring.
        refusal: why it is not handed back; empty where it could be.
    """

    candidate: Candidate
    value: float = math.nan
    drop: Drop | None = None
    latency: dict[int, Latency] = field(default_factory=dict)
    speed_up: dict[int, SpeedUp] = field(default_factory=dict)
    refusal: str = ""

    def is_proven(self, max_drop: float) -> bool:
        """Whether the upper bound of the drop keeps the bound, not only its estimate."""
        return self.drop is not None and self.drop.upper <= max_drop

    @property
    def typical_s(self) -> float:
        """The geometric mean of the latencies over the batch sizes."""
        logs = [math.log(latency.p50_s) for latency in self.latency.values()]
        return math.exp(sum(logs) / len(logs))


@dataclass(frozen=True, slots=True)
class Search:
    """A search that is prepared: the original is known to run, and how it is judged."""

    original: Candidate
    session: Session
    judge: Judge
    feeds: dict[str, Array]
    labels: Array | None
    answers: Array
    value: float
    ladder: Ladder
    notes: list[str]

    @property
    def smallest_provable(self) -> float | None:
        """The drop below which no proof is possible with these rows; None where it depends."""
        return self.judge.smallest_provable(self.answers, self.targets)

    @property
    def targets(self) -> Array:
        """What the answers are compared with: the labels, or the original's own answers."""
        targets = self.labels if self.judge.metric.needs_labels else self.answers
        assert targets is not None  # make_judge
        return targets

    def batches(self, asked: Sequence[int]) -> tuple[int, ...]:
        """The batch sizes that the original can be measured at."""
        return batch_sizes(self.session, asked)


@dataclass(frozen=True, slots=True)
class Result:
    """What the search found.

    Attributes:
        best: what is handed back.
        original: the model that came, measured in the same run as ``best``.
        tried: every candidate, in the order of the search.
        judge: which output counts, by which metric.
        is_proven: whether the bound is proven for ``best``, or only estimated.
        smallest_provable: see Search.
        notes: what could not be tried, and what a reader must know.
        seed: of every random choice.
    """

    best: Verdict
    original: Verdict
    tried: tuple[Verdict, ...]
    judge: Judge
    goal: Goal
    is_proven: bool
    smallest_provable: float | None
    notes: tuple[str, ...]
    seed: int


def prepare_network(
    network: Network,
    data: Data,
    evaluation: Rows,
    *,
    plan: Plan | None = None,
    metric: Metric | None = None,
) -> Search:
    """A search from a network of ours.

    Args:
        network: the original, in floats.
        data: what candidates learn from.
        evaluation: rows that judge, none of them in ``data``.
        plan: what narrows the search.
        metric: None takes the default of ``make_judge``.

    Raises:
        DataError: the rows do not fit the network.
        ConfigError: the metric does not fit the rows.
    """
    if network.activation_qparams:
        raise CompressionError("the checkpoint is quantized already; start from the float one")
    model = to_onnx(network)
    notes: list[str] = []
    ladder = network_ladder(network, data, plan or Plan(), notes)
    return _search(model, model.SerializeToString(), evaluation, metric, None, ladder, notes)


def prepare_onnx(
    model: onnx.ModelProto,
    train: Rows,
    evaluation: Rows,
    *,
    plan: Plan | None = None,
    data: Data | None = None,
    metric: Metric | None = None,
    output: str | None = None,
    seed: int = 0,
) -> Search:
    """A search from an ONNX file.

    Args:
        model: the original.
        train: rows to calibrate with; labels are not needed.
        evaluation: rows that judge.
        plan: what narrows the search.
        data: what a student learns from; not needed without one.
        metric: see ``make_judge``.
        output: see ``make_judge``.
        seed: of the choice of calibration rows.

    Raises:
        DataError: the rows do not fit the model, or it answers NaN.
        ConfigError: the plan or the metric does not fit the model or the rows.
        ModelFileError: ONNX Runtime does not load the model.
    """
    content = model.SerializeToString()
    session = Session(content)
    notes: list[str] = []
    plan = plan or Plan()
    ladder: Ladder
    if plan.student is not None:
        if data is None:
            raise ConfigError("a student needs rows to learn from")
        ladder = network_ladder(plan.student, data, plan, notes)
    else:
        feeds = bind_rows(session, train)
        ladder = onnx_ladder(model, session, feeds, plan, notes, seed=seed)
    return _search(model, content, evaluation, metric, output, ladder, notes)


def search(
    prepared: Search, goal: Goal, *, seed: int = 0, progress: bool = False, tell: Tell | None = None
) -> Result:
    """Climbs the ladder, measures, chooses, and confirms the choice in a second measurement.

    Args:
        prepared: from ``prepare_network`` or ``prepare_onnx``.
        goal: see Goal.
        seed: written into the result.
        progress: whether a terminal shows bars.
        tell: is called with one line for each candidate.

    Raises:
        BoundNotMetError: nothing passed; carries the nearest miss.
    """
    say = tell or (lambda _: None)
    batches = prepared.batches(goal.batches)
    if prepared.judge.note:
        prepared.notes.insert(0, prepared.judge.note)
    if batches != tuple(goal.batches):
        prepared.notes.append(f"the model takes batches of {batches[0]} only; measured at that")
    tried = _judged(prepared, goal, say)
    hopeful = [v for v in tried if not v.refusal]
    original = _time(prepared, hopeful, batches, TIMING_BUDGET_S, progress=progress)
    for verdict in hopeful:
        verdict.refusal = _no_gain(verdict, original, goal)
    while hopeful := [v for v in hopeful if not v.refusal]:
        best = _best(hopeful, original, goal)
        original = _time(prepared, [best], batches, CONFIRMATION_BUDGET_S, progress=progress)
        best.refusal = _no_gain(best, original, goal)
        if not best.refusal:
            return Result(
                best=best,
                original=original,
                tried=tuple(tried),
                judge=prepared.judge,
                goal=goal,
                is_proven=best.is_proven(goal.max_drop),
                smallest_provable=prepared.smallest_provable,
                notes=tuple(prepared.notes),
                seed=seed,
            )
    raise BoundNotMetError(_nothing_passed(tried, prepared, goal))


# ----- below


def _search(
    model: onnx.ModelProto,
    content: bytes,
    evaluation: Rows,
    metric: Metric | None,
    output: str | None,
    ladder: Ladder,
    notes: list[str],
) -> Search:
    session = Session(content)
    if len(evaluation) == 0:
        raise DataError("there are no rows to evaluate on")
    feeds = bind_rows(session, evaluation)
    judge = make_judge(model, session, evaluation.y, metric=metric, output=output)
    answers = judge.answers(session, feeds)
    targets = evaluation.y if judge.metric.needs_labels else answers
    assert targets is not None  # make_judge
    return Search(
        original=Candidate(ORIGINAL, content, parameter_count(model)),
        session=session,
        judge=judge,
        feeds=feeds,
        labels=evaluation.y,
        answers=answers,
        value=judge.value(answers, targets),
        ladder=ladder,
        notes=notes,
    )


def _judged(prepared: Search, goal: Goal, say: Tell) -> list[Verdict]:
    """Every candidate with its drop; the ladder is told whether it stayed inside."""
    found: list[Verdict] = []
    candidate = next(prepared.ladder, None)
    while candidate is not None:
        verdict = _judge(prepared, candidate, goal)
        found.append(verdict)
        say(_line(verdict, prepared.judge.metric))
        try:
            candidate = prepared.ladder.send(not verdict.refusal)
        except StopIteration:
            candidate = None
    return found


def _judge(prepared: Search, candidate: Candidate, goal: Goal) -> Verdict:
    verdict = Verdict(candidate)
    try:
        session = _checked(prepared, candidate)
        answers = prepared.judge.answers(session, prepared.feeds)
        if answers.shape != prepared.answers.shape:
            raise CompressionError(
                f"answers {answers.shape}, the original {prepared.answers.shape}"
            )
    except (CompressionError, DataError, ModelFileError) as error:
        verdict.refusal = str(error)
        return verdict
    verdict.value = prepared.judge.value(answers, prepared.targets)
    verdict.drop = prepared.judge.drop(prepared.answers, answers, prepared.targets)
    verdict.refusal = _excess(verdict, goal)
    return verdict


def _checked(prepared: Search, candidate: Candidate) -> Session:
    """The candidate loaded: valid where the original was, with the same inputs and outputs."""
    model = onnx.load_model_from_string(candidate.model)
    if _is_valid(onnx.load_model_from_string(prepared.original.model)):
        check(model)
    session = Session(candidate.model, name=candidate.name)
    for kind, ours, theirs in (
        ("inputs", session.inputs, prepared.session.inputs),
        ("outputs", session.outputs, prepared.session.outputs),
    ):
        was = {(p.name, p.dtype, len(p.shape)) for p in theirs}
        now = {(p.name, p.dtype, len(p.shape)) for p in ours}
        if now != was:
            raise CompressionError(f"{candidate.name} changes the {kind}: {was} became {now}")
    return session


def _is_valid(model: onnx.ModelProto) -> bool:
    try:
        check(model)
    except CompressionError:
        return False
    return True


def _excess(verdict: Verdict, goal: Goal) -> str:
    assert verdict.drop is not None
    if not verdict.drop.estimate <= goal.max_drop:
        return f"drops by {verdict.drop.estimate:.4g}, allowed {goal.max_drop:.4g}"
    if goal.require_proof and not verdict.is_proven(goal.max_drop):
        return f"may drop by up to {verdict.drop.upper:.4g}, and proof was asked for"
    return ""


def _time(
    prepared: Search,
    verdicts: Sequence[Verdict],
    batches: Sequence[int],
    budget_s: float,
    *,
    progress: bool,
) -> Verdict:
    """Measures original and candidates in turns; answers the original's verdict."""
    sessions = {ORIGINAL: prepared.session} | {
        f"{n}": Session(v.candidate.model) for n, v in enumerate(verdicts)
    }
    found = measure(sessions, prepared.feeds, batches, budget_s=budget_s, progress=progress)
    base = found[ORIGINAL]
    for n, verdict in enumerate(verdicts):
        verdict.latency = found[f"{n}"]
        verdict.speed_up = {b: speed_up(base[b], verdict.latency[b]) for b in batches}
    return Verdict(
        prepared.original,
        value=prepared.value,
        drop=Drop(0.0, 0.0, len(prepared.answers)),
        latency=base,
        speed_up={b: SpeedUp(1.0, 1.0) for b in batches},
    )


def _no_gain(verdict: Verdict, original: Verdict, goal: Goal) -> str:
    """Why the candidate is no gain; empty where it is one."""
    if goal.minimize == "bytes":
        is_smaller = verdict.candidate.size_bytes < original.candidate.size_bytes
        return "" if is_smaller else "the file is no smaller than the original"
    for batch, gain in verdict.speed_up.items():
        if gain.ratio < 1:
            return f"slower than the original at batch {batch}: {gain.ratio:.3f}x"
    is_beyond_noise = any(gain.lower > 1 for gain in verdict.speed_up.values())
    if not is_beyond_noise or original.typical_s / verdict.typical_s < MINIMUM_SPEED_UP:
        return "no faster than the original beyond the noise of this machine"
    return ""


def _best(verdicts: Sequence[Verdict], original: Verdict, goal: Goal) -> Verdict:
    """Of those with a notable and proven gain, else of all, the fastest or smallest."""
    proven = [v for v in verdicts if v.is_proven(goal.max_drop) and _is_notable(v, original)]
    among = proven or verdicts
    if goal.minimize == "bytes":
        return min(among, key=lambda v: (v.candidate.size_bytes, v.typical_s))
    fastest = min(v.typical_s for v in among)
    equal = [v for v in among if v.typical_s <= fastest * (1 + EQUAL_WITHIN)]
    return min(equal, key=lambda v: (v.candidate.size_bytes, v.typical_s))


def _is_notable(verdict: Verdict, original: Verdict) -> bool:
    speed_up = original.typical_s / verdict.typical_s
    size_ratio = original.candidate.size_bytes / verdict.candidate.size_bytes
    return speed_up >= NOTABLE_SPEED_UP or size_ratio >= NOTABLE_SIZE_RATIO


def _nothing_passed(tried: Sequence[Verdict], prepared: Search, goal: Goal) -> str:
    metric = prepared.judge.metric.name
    head = f"no candidate keeps {metric} within {goal.max_drop:.4g} and is a gain on this machine"
    judged = [v for v in tried if v.drop is not None]
    if not judged:
        reasons = "; ".join([f"{v.candidate.name}: {v.refusal}" for v in tried] + prepared.notes)
        return f"{head}; the original is kept. {reasons or 'There was nothing to try'}"
    # Inside the bound but slow is nearer than outside it.
    nearest = min(judged, key=lambda v: (not v.speed_up, _distance(v)))
    return (
        f"{head}; the original is kept. Nearest miss: {nearest.candidate.name}, {nearest.refusal}"
    )


def _distance(verdict: Verdict) -> float:
    if verdict.speed_up:
        return -min(gain.ratio for gain in verdict.speed_up.values())
    assert verdict.drop is not None
    return verdict.drop.estimate


def _line(verdict: Verdict, metric: Metric) -> str:
    if verdict.drop is None:
        return f"{verdict.candidate.name}: {verdict.refusal}"
    refusal = f": {verdict.refusal}" if verdict.refusal else ""
    return (
        f"{verdict.candidate.name}: {metric.name} {verdict.value:.4f}, "
        f"{verdict.candidate.size_bytes:,} bytes{refusal}"
    )
