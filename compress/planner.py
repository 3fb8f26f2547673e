"""What the search tries of a network that can be trained, in order.

First the network as it is, in floats and in integers. Then less and less of it: pruned in steps
to the widths that cost least under a target, each step trained on from the last that held, with
the original as a teacher and, as a control, without; then its large layers factorized, and pruned
likewise. How far down is found by bisection against the bound. Images are shifted in training where
that did better in the first trainings.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from compress.candidates import Candidate, Plan
from compress.clock import Clock
from compress.descent import Descent
from compress.distillation import Distill, FineTune, twin
from compress.endings import Course, Endings
from compress.factorization import FactorizeLinear
from compress.goal import Goal
from compress.pruning import PruneChannels
from compress.pruning.channels import removable_widths, rounded_width
from compress.remake import remake
from compress.shaping import Shaper, first_ranks
from compress.stem import Grown, Stem
from compress.technique import Kinds, Technique
from compress.verdict import Verdict
from compress.workshop import Workshop
from hlserve.errors import HlserveError

FINE_TUNING_STEPS = 2400  # of the optimizer; an epoch of few rows has few
FEWEST_EPOCHS, MOST_EPOCHS = 4, 8
STUDENT_EPOCHS = 12, 150  # a student starts from nothing

WAVES = 8  # about so many trainings a search makes, one after another
SECOND_BRANCH_SHARE = 0.4  # of the time that is left when the first begins
TRAINING_SHARE = 0.8  # of the time; the rest is for judging and timing
EPOCH_SHARE = 0.4  # of the budget that an epoch may take, where training is worth beginning
# To learn how fast this machine trains: from a few rows on, until it took long enough to tell.
PROBE_ROWS, PROBE_GROWTH, PROBE_S = 8, 4, 0.3
PROBE_STEPS = 12  # of the optimizer, at most
NEAR = 3.0  # a drop up to so many times the bound is worth a longer training
LONGER = 3  # times the epochs
MOST_PATIENCE = 3  # longer trainings of one network
GENEROUS = 3  # times the usual epochs, where the budget has room for them
CLEARLY_BEHIND = 0.25  # of the bound
SHIFT = 1  # pixels that images are moved by at most; right in nearly every task, if it helps at all


@dataclass(slots=True)
class Planner:
    """Offers candidates and goes on by what is found of them.

    Attributes:
        shop: grows networks from the original, or from a student for it.
        endings: makes files of them.
        shaper: knows which widths cost what.
        plan, goal: what the user wants.
        clock: the time that is left.
        is_proof_possible: whether the rows can prove the bound at all; then what is only
            estimated does not count as inside.
        notes: what could not be tried, and why, is added here.
    """

    shop: Workshop
    endings: Endings
    shaper: Shaper
    plan: Plan
    goal: Goal
    clock: Clock
    is_proof_possible: bool
    notes: list[str]
    _wave_s: float = 0.0
    _epochs: int = 0
    _shift: int | None = None  # None until the first trainings have shown whether it helps
    _reserve_s: float = 0.0

    def ladder(self) -> Course:
        """The candidates, in order; is sent every one's verdict."""
        plan = self.plan
        if plan.recipe is not None:
            return (yield from self._recipe())
        if plan.student is not None:
            return (yield from self._student())
        if plan.ratio is not None:
            return (yield from self._fixed_share(plan.ratio))
        found = yield from self.endings.of(self.shop.original())
        if not self._can_train():
            return found
        for branch in self._branches():
            found += yield from branch
        return found

    # ----- what the user narrowed it to

    def _recipe(self) -> Course:
        """One recipe: what goes wrong in it is the user's to know, so it is raised."""
        recipe = self.plan.recipe
        assert recipe is not None  # ladder
        data = self.shop.data
        made = remake(self.shop.network, recipe, data, seed=data.seed)
        return [(yield Candidate.of_network("recipe", "recipe", recipe, made))]

    def _student(self) -> Course:
        """The student, which is what the workshop was opened with, trained from nothing."""
        distill = default_distill(len(self.shop.data.train), is_student=True)
        stems = self._ways(Stem("", "student"), "student", "student", (), distill)
        found: list[Verdict] = []
        for grown in self.shop.grown(stems):
            found += yield from self.endings.of(grown)
        return found

    def _fixed_share(self, ratio: float) -> Course:
        found: list[Verdict] = []
        for kinds in self._kinds():
            step = PruneChannels(ratio, layers=kinds)
            full = removable_widths(self.shop.network, kinds)
            kept = [rounded_width(width, 1 - ratio, step.round_to) for width in full]
            where = "" if kinds == "all" else "dense "
            name = f"{where}pruned {100 * ratio:.0f} %"
            if kept == full:
                self.notes.append(
                    f"{name} was left out: it removes no more, widths stay multiples of 8"
                )
                continue
            stems = self._ways(Stem("", "pruned"), name, "pruned", (step,), self._distill())
            for grown in self.shop.grown(stems):
                found += yield from self.endings.of(grown)
        return found

    def _kinds(self) -> tuple[Kinds, ...]:
        """All layers, then, where there are convolutions, the others alone."""
        network = self.shop.network
        is_mixed = removable_widths(network, "linear") not in ([], removable_widths(network))
        return ("all", "linear") if is_mixed else ("all",)

    # ----- the automatic search

    def _branches(self) -> Iterator[Course]:
        """Each with its share of the time that is left."""
        ways = [self._descend(self.shop.original(), "pruned"), self._factorized()]
        if self.goal.minimize == "bytes":
            ways.reverse()
        for n, way in enumerate(ways):
            is_open_end = n == len(ways) - 1 or math.isinf(self.clock.left_s)
            self._reserve_s = 0.0 if is_open_end else SECOND_BRANCH_SHARE * self.clock.left_s
            yield way

    def _factorized(self) -> Course:
        root = self.shop.original()
        ranks = first_ranks(root.network)
        if ranks is None:
            return []
        name = f"low rank {'-'.join(map(str, ranks))}"
        step = FactorizeLinear(ranks=ranks)
        found, grown = yield from self._wave(root.stem, name, "low rank", (step,))
        if grown is not None and any(self._holds(v) for v in found):
            found += yield from self._descend(grown, "low rank")
        return found

    def _descend(self, root: Grown, family: str) -> Course:
        """Less and less of a network, each step from the last that held."""
        found: list[Verdict] = []
        descent, parent = Descent(), root
        while (share := descent.next()) is not None and self._has_time():
            widths = self.shaper.widths(root.network, parent.network, share)
            if widths is None:
                descent.tell(share, holds=False)
                continue
            if list(widths) == removable_widths(parent.network):
                break
            name = _joined(root.stem.name, f"pruned to {'-'.join(map(str, widths))}")
            steps = (PruneChannels(widths=widths, importance=self.shaper.importance),)
            verdicts, grown = yield from self._wave(parent.stem, name, family, steps)
            found += verdicts
            holds = any(self._holds(v) for v in verdicts)
            if grown is not None and not holds and self._is_near(verdicts):
                verdicts, grown = yield from self._patiently(grown, name, family, verdicts)
                found += verdicts
                holds = any(self._holds(v) for v in verdicts)
            descent.tell(share, holds=holds)
            if holds and grown is not None:
                parent = grown
        return found

    def _wave(self, parent: Stem, name: str, family: str, steps: tuple[Technique, ...]) -> _Wave:
        """The steps, trained in every way; the best one is what to go on from."""
        started = time.monotonic()
        stems = self._ways(parent, name, family, steps, self._distill())
        found, tried = yield from self._judged(stems, started)
        if self._shift is None and tried:
            tried = self._decided(tried)
            self._wave_s /= 2  # later ones try one or the other
        return found, _best(tried)

    def _patiently(
        self, grown: Grown, name: str, family: str, verdicts: Sequence[Verdict]
    ) -> _Wave:
        """A near miss, trained longer, and again as long as that makes it better."""
        found: list[Verdict] = []
        best, least = grown, _least_drop(verdicts)
        for again in range(1, MOST_PATIENCE + 1):
            if not self._has_time():
                break
            called = f"{name}, trained longer" + (f" {again} times" if again > 1 else "")
            verdicts, longer = yield from self._longer(best, called, family)
            found += verdicts
            is_better = longer is not None and _least_drop(verdicts) < least
            if longer is None or not is_better:
                break
            best, least = longer, _least_drop(verdicts)
            if any(self._holds(v) for v in verdicts):
                break
        return found, best

    def _longer(self, grown: Grown, name: str, family: str) -> _Wave:
        started = time.monotonic()
        again = self._distill()
        again = replace(again, epochs=LONGER * again.epochs)
        again = replace(again, shift=shift_of(grown.stem.steps[-1]))
        last = again if isinstance(grown.stem.steps[-1], Distill) else twin(again)
        stem = grown.stem.grown(name, family, last)
        found, tried = yield from self._judged([stem], started)
        return found, _best(tried)

    def _judged(
        self, stems: Sequence[Stem], started: float
    ) -> Generator[Candidate, Verdict, tuple[list[Verdict], list[_Tried]]]:
        """All verdicts, and every network with the smallest drop of its files."""
        found: list[Verdict] = []
        tried: list[_Tried] = []
        for grown in self.shop.grown(stems):
            verdicts = yield from self.endings.of(grown)
            found += verdicts
            tried.append((_least_drop(verdicts), grown))
        self._wave_s = time.monotonic() - started
        return found, tried

    def _decided(self, tried: list[_Tried]) -> list[_Tried]:
        """Those whose images were shifted as all will be from now on.

        Shifted images take longer to learn and give more in the end, so they need not win yet.
        """
        by_shift = {
            shift: [one for one in tried if shift_of(one[1].stem.steps[-1]) == shift]
            for shift in (0, SHIFT)
        }
        least = {
            shift: min((drop for drop, _ in ones), default=math.inf)
            for shift, ones in by_shift.items()
        }
        is_behind = least[SHIFT] > least[0] + CLEARLY_BEHIND * self.goal.max_drop
        self._shift = 0 if is_behind else SHIFT
        return by_shift[self._shift]

    def _ways(
        self, parent: Stem, name: str, family: str, steps: tuple[Technique, ...], step: Distill
    ) -> list[Stem]:
        """With a teacher and without; and images shifted and at rest, as long as that is open."""
        if self._shift is None and self.shop.data.image_shape is None:
            self._shift = 0
        shifts = (0, SHIFT) if self._shift is None else (self._shift,)
        stems: list[Stem] = []
        for shift in shifts:
            called = f"{name}, shifted images" if shift else name
            moved = replace(step, shift=shift)
            stems += self._with_control(parent, called, family, steps, moved)
        return stems

    def _with_control(
        self, parent: Stem, name: str, family: str, steps: tuple[Technique, ...], step: Distill
    ) -> list[Stem]:
        """Trained to imitate the teacher, and the same without one where there are labels."""
        stems: list[Stem] = []
        if self.shop.data.teacher_logits is not None:
            stems.append(parent.grown(name, family, *steps, step))
        if self.shop.data.train.y is not None:
            control = f"{name}, no teacher"
            stems.append(parent.grown(control, family, *steps, twin(step)))
        return stems

    # ----- how it goes on

    def _holds(self, verdict: Verdict) -> bool:
        if verdict.refusal:
            return False
        return not self.is_proof_possible or verdict.is_proven(self.goal.max_drop)

    def _is_near(self, verdicts: Sequence[Verdict]) -> bool:
        return _least_drop(verdicts) <= NEAR * self.goal.max_drop

    def _has_time(self) -> bool:
        if self.clock.left_s > self._wave_s + self._reserve_s:
            return True
        note = "the budget was spent; a larger --budget may find more"
        if note not in self.notes:
            self.notes.append(note)
        return False

    def _can_train(self) -> bool:
        """Whether the budget has room for more than an epoch of the original."""
        if math.isinf(self.clock.left_s):
            return True
        epoch_s, left_s = self._epoch_s(), self.clock.left_s
        if epoch_s <= EPOCH_SHARE * left_s:
            return True
        self.notes.append(
            f"nothing was trained: passing over the rows once takes about {epoch_s:.0f} s of the "
            f"{left_s:.0f} s that were left; give a larger --budget or fewer rows to learn from"
        )
        return False

    def _distill(self) -> Distill:
        """The same for all steps of a search: as many epochs as the budget allows."""
        usual = default_distill(len(self.shop.data.train))
        if not self._epochs:
            is_endless = not np.isfinite(self.clock.left_s)
            most = usual.epochs if is_endless else ceil(GENEROUS * usual.epochs)
            each_s = TRAINING_SHARE * self.clock.left_s / WAVES
            fits = each_s / self._epoch_s() if np.isfinite(each_s) else usual.epochs
            self._epochs = int(np.clip(fits, 1, most))
        return replace(usual, epochs=self._epochs)

    def _epoch_s(self) -> float:
        """How long an epoch takes here, from as many rows as a moment allows."""
        n_all = len(self.shop.data.train)
        n, most = PROBE_ROWS, min(n_all, PROBE_STEPS * default_distill(1).batch_size)
        while (spent_s := self._training_s(min(n, most))) < PROBE_S and n < most:
            n *= PROBE_GROWTH
        return spent_s * n_all / min(n, most)

    def _training_s(self, n: int) -> float:
        """How long one pass over so many rows takes."""
        data = self.shop.data
        few = np.linspace(0, len(data.train) - 1, n).astype(np.int64)  # rows may be sorted by class
        logits = None if data.teacher_logits is None else data.teacher_logits[few]
        some = replace(data, train=data.train.take(few), teacher_logits=logits, progress=False)
        step: Technique = FineTune(1) if logits is None else Distill(1)
        started = time.monotonic()
        with contextlib.suppress(HlserveError):  # said when it is really tried
            step.apply(self.shop.network, some)
        return time.monotonic() - started


def default_distill(n_rows: int, *, is_student: bool = False) -> Distill:
    """As long as it takes for about the same number of steps, however few the rows."""
    usual = Distill()
    fewest, most = STUDENT_EPOCHS if is_student else (FEWEST_EPOCHS, MOST_EPOCHS)
    epochs = ceil(FINE_TUNING_STEPS / max(1, ceil(n_rows / usual.batch_size)))
    return replace(usual, epochs=min(most, max(fewest, epochs)))


def shift_of(step: Technique) -> int:
    """By how many pixels a training moves its images."""
    return step.shift if isinstance(step, Distill | FineTune) else 0


# ----- below

_Tried = tuple[float, Grown]
_Wave = Generator[Candidate, Verdict, tuple[list[Verdict], Grown | None]]


def _least_drop(verdicts: Sequence[Verdict]) -> float:
    return min((v.drop.estimate for v in verdicts if v.drop is not None), default=math.inf)


def _best(tried: Sequence[_Tried]) -> Grown | None:
    """The network with the smallest drop."""
    return min(tried, key=lambda one: one[0])[1] if tried else None


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
