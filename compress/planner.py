"""What the search tries of a network that can be trained, in order.

First the network as it is, in floats and in integers. Then less and less of it: pruned in steps
to the widths that cost least under a target, each step trained on from the last that held, with
the original as a teacher and, as a control, without; then its large layers factorized, and pruned
likewise. How far down is found by bisection against the bound. Images are shifted in training
unless that was clearly behind in the first trainings.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

import numpy as np

from compress.candidates import Candidate, Plan
from compress.clock import Clock
from compress.descent import Descent
from compress.distillation import Distill, FineTune, twin
from compress.endings import Course, Endings
from compress.factorization import FactorizeLinear
from compress.goal import Goal
from compress.pace import Pace
from compress.pruning import PruneChannels
from compress.pruning.channels import removable_widths, rounded_width
from compress.remake import remake
from compress.shaping import Shaper, first_ranks
from compress.stem import Grown, Stem
from compress.technique import Kinds, Technique
from compress.verdict import Verdict
from compress.workshop import Workshop

FINE_TUNING_STEPS = 2400  # of the optimizer; an epoch of few rows has few
FEWEST_EPOCHS, MOST_EPOCHS = 4, 8
STUDENT_EPOCHS = 12, 150  # a student starts from nothing

WAVES = 8  # about so many trainings a search makes, one after another
SECOND_BRANCH_SHARE = 0.4  # of the time that is left when the first begins
TRAINING_SHARE = 0.8  # of the time; the rest is for judging and timing
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
    _epochs: int = 0
    _shift: int | None = None  # None until the first trainings have shown whether it helps
    _reserve_s: float = 0.0
    _pace: Pace = field(init=False)

    def __post_init__(self) -> None:
        self._pace = Pace(self.shop, self.clock)

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
        stems = self._with_control(Stem("", "student"), "student", "student", (), distill)
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
        found, trained = yield from self._wave(root.stem, name, "low rank", (step,))
        best = self._best(trained)
        if best is not None and self._stands(best):
            found += yield from self._descend(best.grown, "low rank")
        return found

    def _descend(self, root: Grown, family: str) -> Course:
        """Less and less of a network, each step from the last that held."""
        found: list[Verdict] = []
        descent, parent = Descent(), root
        while (share := descent.next()) is not None and self._has_time(self._epochs, 2):
            widths = self.shaper.widths(root.network, parent.network, share)
            if widths is None:
                descent.tell(share, holds=False)
                continue
            if list(widths) == removable_widths(parent.network):
                break
            name = _joined(root.stem.name, f"pruned to {'-'.join(map(str, widths))}")
            steps = (PruneChannels(widths=widths, importance=self.shaper.importance),)
            verdicts, trained = yield from self._wave(parent.stem, name, family, steps)
            found += verdicts
            best = self._best(trained)
            if best is not None and self._is_near(best):
                verdicts, best = yield from self._patiently(best, name, family)
                found += verdicts
            holds = best is not None and self._stands(best)
            descent.tell(share, holds=holds)
            if best is not None and holds:
                parent = best.grown
        return found

    def _wave(self, parent: Stem, name: str, family: str, steps: tuple[Technique, ...]) -> _Wave:
        """The steps, trained in every way: all verdicts, and the networks to go on from."""
        found, trained = yield from self._judged(
            self._ways(parent, name, family, steps, self._distill())
        )
        return found, self._decided(trained) if self._shift is None else trained

    def _patiently(
        self, near: Trained, name: str, family: str
    ) -> Generator[Candidate, Verdict, tuple[list[Verdict], Trained]]:
        """A near miss, trained longer, and again as long as that makes it better."""
        found: list[Verdict] = []
        best = near
        for again in range(1, MOST_PATIENCE + 1):
            if self._stands(best) or not self._has_time(LONGER * self._epochs, 1):
                break
            called = f"{name}, trained longer" + (f" {again} times" if again > 1 else "")
            verdicts, longer = yield from self._longer(best.grown, called, family)
            found += verdicts
            if not longer or longer[0].least_drop >= best.least_drop:
                break
            best = longer[0]
        return found, best

    def _longer(self, grown: Grown, name: str, family: str) -> _Wave:
        usual, last = self._distill(), grown.stem.steps[-1]
        again = replace(usual, epochs=LONGER * usual.epochs, shift=shift_of(last))
        step = again if isinstance(last, Distill) else twin(again)
        return (yield from self._judged([grown.stem.grown(name, family, step)]))

    def _judged(self, stems: Sequence[Stem]) -> _Wave:
        """All verdicts, and every network with those of its files."""
        started = time.monotonic()
        trained: list[Trained] = []
        for grown in self.shop.grown(stems):
            verdicts = yield from self.endings.of(grown)
            trained.append(Trained(grown, tuple(verdicts)))
        epochs = max((epochs_of(stem.steps[-1]) for stem in stems), default=1)
        self._pace.heard(epochs, len(stems), time.monotonic() - started)
        return [verdict for one in trained for verdict in one.verdicts], trained

    def _decided(self, trained: list[Trained]) -> list[Trained]:
        """Those whose images were shifted as all will be from now on.

        Shifted images take longer to learn and give more in the end, so they need not win yet.
        """
        ways = {
            shift: [one for one in trained if shift_of(one.grown.stem.steps[-1]) == shift]
            for shift in (0, SHIFT)
        }
        tried = [shift for shift, ones in ways.items() if ones]
        if not tried:
            return []
        least = {shift: min(one.least_drop for one in ways[shift]) for shift in tried}
        is_behind = least.get(SHIFT, math.inf) > (
            least.get(0, math.inf) + CLEARLY_BEHIND * self.goal.max_drop
        )
        self._shift = 0 if is_behind or SHIFT not in tried else SHIFT
        return ways[self._shift]

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

    def _stands(self, trained: Trained) -> bool:
        return any(self._holds(verdict) for verdict in trained.verdicts)

    def _best(self, trained: Sequence[Trained]) -> Trained | None:
        """The network to go on from: one that holds, and of several the one that lost least."""
        return min(trained, key=lambda one: (not self._stands(one), one.least_drop), default=None)

    def _is_near(self, trained: Trained) -> bool:
        return trained.least_drop <= NEAR * self.goal.max_drop

    def _has_time(self, epochs: int, n_stems: int) -> bool:
        if self.clock.left_s > self._pace.needs_s(epochs, n_stems) + self._reserve_s:
            return True
        note = "the budget was spent; a larger --budget may find more"
        if note not in self.notes:
            self.notes.append(note)
        return False

    def _can_train(self) -> bool:
        if self._pace.is_worth_beginning():
            return True
        told = f"; passing over the rows once takes about {self._pace.epoch_s():.0f} s"
        left_s = self.clock.left_s
        self.notes.append(
            f"nothing was trained: {left_s:.0f} s of the budget were left"
            f"{told if left_s else ''}; give a larger --budget or fewer rows to learn from"
        )
        return False

    def _distill(self) -> Distill:
        """The same for all steps of a search: as many epochs as the budget allows."""
        usual = default_distill(len(self.shop.data.train))
        if not self._epochs:
            is_endless = not np.isfinite(self.clock.left_s)
            most = usual.epochs if is_endless else ceil(GENEROUS * usual.epochs)
            each_s = TRAINING_SHARE * self.clock.left_s / WAVES
            fits = each_s / self._pace.epoch_s() if np.isfinite(each_s) else usual.epochs
            self._epochs = int(np.clip(fits, 1, most))
        return replace(usual, epochs=self._epochs)


def default_distill(n_rows: int, *, is_student: bool = False) -> Distill:
    """As long as it takes for about the same number of steps, however few the rows."""
    usual = Distill()
    fewest, most = STUDENT_EPOCHS if is_student else (FEWEST_EPOCHS, MOST_EPOCHS)
    epochs = ceil(FINE_TUNING_STEPS / max(1, ceil(n_rows / usual.batch_size)))
    return replace(usual, epochs=min(most, max(fewest, epochs)))


def shift_of(step: Technique) -> int:
    """By how many pixels a training moves its images."""
    return step.shift if isinstance(step, Distill | FineTune) else 0


def epochs_of(step: Technique) -> int:
    """How often a training passes over the rows."""
    return step.epochs if isinstance(step, Distill | FineTune) else 1


# ----- below


@dataclass(frozen=True, slots=True)
class Trained:
    """A network, and what was found about its files."""

    grown: Grown
    verdicts: tuple[Verdict, ...]

    @property
    def least_drop(self) -> float:
        """The smallest of its files; infinite where none runs."""
        drops = [verdict.drop.estimate for verdict in self.verdicts if verdict.drop is not None]
        return min(drops, default=math.inf)


_Wave = Generator[Candidate, Verdict, tuple[list[Verdict], list[Trained]]]


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
