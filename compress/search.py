"""Measure and choose: the fastest or smallest model that keeps the metric inside a bound.

Accuracy is compared row by row with the original's, on rows that no candidate learned from.
Latency is measured here and now, original and candidates taking turns. What is slower or
outside the bound is not handed back. The rows for the last look decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from compress.bound import Drop
from compress.candidates import Candidate
from compress.clock import Clock
from compress.endings import Course
from compress.evaluate import Judge
from compress.export import check
from compress.goal import Goal
from compress.latency import SpeedUp, batch_sizes, measure, speed_up
from compress.metric import Metric
from compress.selection import effective_comparisons
from compress.session import Session
from compress.verdict import Verdict, best, excess, is_notable, no_gain, pareto
from hlserve.errors import BoundNotMetError, CompressionError, DataError, ModelFileError
from hlserve.nn.param import Array

Tell = Callable[[str], None]

TIMING_BUDGET_S = 6.0
FINALISTS = 5  # of the candidates, timed once more and longer
CONFIRMATION_BUDGET_S = 3.0
COMPARISONS = 8.0  # that bounds allow for while the search is under way; corrected at its end
ORIGINAL = "original"


@dataclass(frozen=True, slots=True)
class Bench:
    """Rows that a model is judged on.

    Attributes:
        feeds: as the model takes them.
        targets: labels, or the original's answers.
        answers: the original's.
        value: the original's metric.
    """

    feeds: dict[str, Array]
    targets: Array
    answers: Array
    value: float


@dataclass(frozen=True, slots=True)
class Search:
    """A search that is prepared: the original is known to run, and how it is judged.

    Attributes:
        original: the model that came.
        session: it, loaded.
        is_valid: whether it passes the ONNX checker; then what takes its place must too.
        judge: which output counts, by which metric.
        bench: the rows that choose.
        test: the rows for one look at the end; None where there are too few.
        ladder: the candidates, for a goal and the time there is.
        sensitivity: what pruning and integers cost, for the report, given the layers that the
            chosen recipe keeps in floats.
        calibration: what was seen for the static integers of a candidate, for the report.
        n_train: how many rows candidates learn from.
        smallest_provable: the drop below which no proof is possible with these rows; None where
            it depends.
        notes: what a reader must know.
    """

    original: Candidate
    session: Session
    is_valid: bool
    judge: Judge
    bench: Bench
    test: Bench | None
    ladder: Callable[[Goal, Clock], Course]
    sensitivity: Callable[[tuple[str, ...]], dict[str, Any]]
    calibration: Callable[[Candidate], list[dict[str, Any]]]
    n_train: int
    smallest_provable: float | None
    notes: list[str]

    def batches(self, asked: Sequence[int]) -> tuple[int, ...]:
        """The batch sizes that the original can be measured at."""
        return batch_sizes(self.session, asked)


@dataclass(frozen=True, slots=True)
class LastLook:
    """What rows say that had no part in the choice.

    Attributes:
        rows: how many.
        original, best: the metric of both, with two-sided 95 % intervals.
        drop: from one to the other.
    """

    rows: int
    original: float
    best: float
    original_interval: tuple[float, float]
    best_interval: tuple[float, float]
    drop: Drop


@dataclass(frozen=True, slots=True)
class Result:
    """What the search found.

    Attributes:
        best: what is handed back.
        original: the model that came, measured in the same run as ``best``.
        tried: every candidate, in the order of the search.
        pareto: those that no other beats in the metric, the latency and the bytes at once.
        judge: which output counts, by which metric.
        is_proven: whether the bound is proven for ``best``, or only estimated.
        smallest_provable: see Search.
        test: see LastLook; None where no rows were left for it.
        notes: what could not be tried, and what a reader must know.
        seed: of every random choice.
        seconds: that the search took.
        is_interrupted: whether Ctrl-C ended the trying.
    """

    best: Verdict
    original: Verdict
    tried: tuple[Verdict, ...]
    pareto: tuple[Verdict, ...]
    judge: Judge
    goal: Goal
    is_proven: bool
    smallest_provable: float | None
    test: LastLook | None
    notes: tuple[str, ...]
    seed: int
    seconds: float
    is_interrupted: bool = False


def search(
    prepared: Search,
    goal: Goal,
    *,
    clock: Clock | None = None,
    seed: int = 0,
    progress: bool = False,
    tell: Tell | None = None,
) -> Result:
    """Tries, measures, chooses, and confirms the choice in a second measurement.

    Ctrl-C ends the trying; what was tried by then is measured.

    Args:
        prepared: from ``job.prepare``.
        goal: see Goal.
        clock: when to stop trying; None: never.
        seed: written into the result.
        progress: whether a terminal shows bars.
        tell: is called with one line for each candidate.

    Raises:
        BoundNotMetError: nothing passed; carries the nearest miss.
        KeyboardInterrupt: it came before anything was tried.
    """
    clock = clock or Clock()
    run = _Run(prepared, goal, progress, tell or (lambda _: None))
    run.try_all(clock)
    original, chosen = run.chosen()
    return Result(
        best=chosen,
        original=original,
        tried=tuple(run.tried),
        pareto=pareto(run.tried),
        judge=prepared.judge,
        goal=goal,
        is_proven=chosen.is_proven(goal.max_drop),
        smallest_provable=prepared.smallest_provable,
        test=_last_look(prepared, chosen),
        notes=tuple(prepared.notes),
        seed=seed,
        seconds=clock.spent_s,
        is_interrupted=run.is_interrupted,
    )


def checked(prepared: Search, candidate: Candidate) -> Session:
    """The candidate loaded: valid where the original was, with the same inputs and outputs.

    Raises:
        CompressionError: it is not.
        ModelFileError: ONNX Runtime does not load it.
    """
    session = prepared.session
    if prepared.is_valid:
        check(onnx.load_model_from_string(candidate.model))
    loaded = Session(candidate.model, name=candidate.name, provider=session.provider)
    for kind, ours, theirs in (
        ("inputs", loaded.inputs, session.inputs),
        ("outputs", loaded.outputs, session.outputs),
    ):
        was = {(p.name, p.dtype, len(p.shape)) for p in theirs}
        now = {(p.name, p.dtype, len(p.shape)) for p in ours}
        if now != was:
            raise CompressionError(f"{candidate.name} changes the {kind}: {was} became {now}")
    return loaded


# ----- below


@dataclass(slots=True)
class _Run:
    """One search under way."""

    prepared: Search
    goal: Goal
    progress: bool
    say: Tell
    tried: list[Verdict] = field(default_factory=list)
    is_interrupted: bool = False

    def try_all(self, clock: Clock) -> None:
        """Every candidate with its drop; the ladder is told what was found."""
        self._note_what_is_judged()
        ladder = self.prepared.ladder(self.goal, clock)
        verdict: Verdict | None = None
        try:
            while True:
                candidate = next(ladder) if verdict is None else ladder.send(verdict)
                verdict = _judged(self.prepared, candidate, self.goal)
                self.tried.append(verdict)
                self.say(_line(verdict, self.prepared.judge.metric, clock))
        except StopIteration:
            pass
        except KeyboardInterrupt:
            if not self.tried:
                raise
            self.is_interrupted = True
            self.prepared.notes.append("interrupted: the best of what was tried by then")

    def chosen(self) -> tuple[Verdict, Verdict]:
        """The original and the best, measured against each other once more.

        Raises:
            BoundNotMetError: nothing passed.
        """
        self._correct_for_choosing()
        hopeful = [verdict for verdict in self.tried if not verdict.refusal]
        original, hopeful = self._timed(hopeful, TIMING_BUDGET_S)
        while hopeful:
            finalists = self._front_runners(hopeful, original)
            original, finalists = self._timed(finalists, TIMING_BUDGET_S)
            if finalists:
                winner = best(finalists, original, self.goal)
                original, confirmed = self._timed([winner], CONFIRMATION_BUDGET_S)
                if confirmed:
                    return original, winner
            hopeful = [verdict for verdict in hopeful if not verdict.refusal]
        raise BoundNotMetError(_nothing_passed(self.tried, self.prepared, self.goal))

    # ----- below

    def _note_what_is_judged(self) -> None:
        notes, batches = self.prepared.notes, self.prepared.batches(self.goal.batches)
        if self.prepared.judge.note:
            notes.insert(0, self.prepared.judge.note)
        if batches != tuple(self.goal.batches):
            notes.append(f"the model takes batches of {batches[0]} only; measured at that")

    def _correct_for_choosing(self) -> None:
        """The best of many looks better than it is: every upper bound makes up for that."""
        judge, bench = self.prepared.judge, self.prepared.bench
        judged = [(v, v.answers) for v in self.tried if v.answers is not None]
        comparisons = float(max(1, len(judged)))
        if judge.metric.whole is None and len(judged) > 1:  # else it has no value for each row
            before = judge.per_row(bench.answers, bench.targets)
            after = (judge.per_row(answers, bench.targets) for _, answers in judged)
            losses = np.array([judge.metric.losses(before, values) for values in after])
            comparisons = effective_comparisons(losses)
        for verdict, answers in judged:
            verdict.drop = judge.drop(
                bench.answers, answers, bench.targets, comparisons=comparisons
            )
            verdict.refusal = excess(verdict, self.goal)

    def _timed(self, verdicts: Sequence[Verdict], budget_s: float) -> tuple[Verdict, list[Verdict]]:
        """Measures original and candidates in turns; answers it and those that are a gain."""
        prepared, batches = self.prepared, self.prepared.batches(self.goal.batches)
        sessions = {ORIGINAL: prepared.session} | {
            f"{n}": Session(v.candidate.model, provider=prepared.session.provider)
            for n, v in enumerate(verdicts)
        }
        feeds = prepared.bench.feeds
        found = measure(sessions, feeds, batches, budget_s=budget_s, progress=self.progress)
        base = found[ORIGINAL]
        original = Verdict(
            prepared.original,
            value=prepared.bench.value,
            drop=Drop(0.0, 0.0, len(prepared.bench.answers)),
            latency=base,
            speed_up={b: SpeedUp(1.0, 1.0) for b in batches},
            answers=prepared.bench.answers,
        )
        for n, verdict in enumerate(verdicts):
            verdict.latency = found[f"{n}"]
            verdict.speed_up = {b: speed_up(base[b], verdict.latency[b]) for b in batches}
            verdict.refusal = no_gain(verdict, original, self.goal)
        return original, [verdict for verdict in verdicts if not verdict.refusal]

    def _front_runners(self, verdicts: Sequence[Verdict], original: Verdict) -> list[Verdict]:
        """The few that may win: proven and notable ones first, then by what they cost."""

        def rank(verdict: Verdict) -> tuple[bool, float]:
            is_sure = verdict.is_proven(self.goal.max_drop) and is_notable(verdict, original)
            return not is_sure, verdict.cost(self.goal)

        return sorted(verdicts, key=rank)[:FINALISTS]


def _judged(prepared: Search, candidate: Candidate, goal: Goal) -> Verdict:
    verdict, bench = Verdict(candidate), prepared.bench
    try:
        session = checked(prepared, candidate)
        answers = prepared.judge.answers(session, bench.feeds)
        if answers.shape != bench.answers.shape:
            raise CompressionError(f"answers {answers.shape}, the original {bench.answers.shape}")
    except (CompressionError, DataError, ModelFileError) as error:
        verdict.refusal = str(error)
        return verdict
    verdict.answers = answers
    verdict.value = prepared.judge.value(answers, bench.targets)
    verdict.drop = prepared.judge.drop(
        bench.answers, answers, bench.targets, comparisons=COMPARISONS
    )
    verdict.refusal = excess(verdict, goal)
    return verdict


def _last_look(prepared: Search, chosen: Verdict) -> LastLook | None:
    bench, judge = prepared.test, prepared.judge
    if bench is None:
        return None
    answers = judge.answers(Session(chosen.candidate.model), bench.feeds)
    return LastLook(
        rows=len(answers),
        original=bench.value,
        best=judge.value(answers, bench.targets),
        original_interval=judge.interval(bench.answers, bench.targets),
        best_interval=judge.interval(answers, bench.targets),
        drop=judge.drop(bench.answers, answers, bench.targets),
    )


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


def _line(verdict: Verdict, metric: Metric, clock: Clock) -> str:
    name = verdict.candidate.name
    left = f", {clock.left_s:.0f} s left" if clock.budget_s is not None else ""
    if verdict.drop is None:
        return f"{name}: {verdict.refusal}{left}"
    refusal = f": {verdict.refusal}" if verdict.refusal else ""
    size = verdict.candidate.size_bytes
    return f"{name}: {metric.name} {verdict.value:.4f}, {size:,} bytes{refusal}{left}"
