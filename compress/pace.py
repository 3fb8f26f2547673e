"""How long trainings take here: told from a probe at first, then from what they took."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, replace

import numpy as np

from compress.clock import Clock
from compress.distillation import Distill, FineTune
from compress.workshop import Workshop
from hlserve.errors import HlserveError

EPOCH_SHARE = 0.4  # of the time left that an epoch may take, where training is worth beginning
# The probe goes from a few rows on until it took long enough to tell.
PROBE_ROWS, PROBE_GROWTH, PROBE_S = 8, 4, 0.3
PROBE_STEPS = 12  # of the optimizer, at most


@dataclass(slots=True)
class Pace:
    """The speed of a search's trainings.

    Attributes:
        shop: what is trained, on which rows, how many at a time.
        clock: the time that is left.
    """

    shop: Workshop
    clock: Clock
    _probed_s: float | None = None
    _heard_s: float | None = None

    def epoch_s(self) -> float:
        """How long one pass of the original over the rows takes, from as many as tell it."""
        if self._probed_s is None:
            self._probed_s = self._probe()
        return self._probed_s

    def is_worth_beginning(self) -> bool:
        """Whether the budget has room for more than an epoch."""
        left_s = self.clock.left_s
        return math.isinf(left_s) or (left_s > 0 and self.epoch_s() <= EPOCH_SHARE * left_s)

    def needs_s(self, epochs: int, n_stems: int) -> float:
        """How long so many trainings take together, judging their files included."""
        each_s = self._heard_s if self._heard_s is not None else 0.0
        return each_s * epochs * self._rounds(n_stems)

    def heard(self, epochs: int, n_stems: int, seconds: float) -> None:
        """So long took trainings that are done."""
        self._heard_s = seconds / (max(1, epochs) * self._rounds(n_stems))

    # ----- below

    def _rounds(self, n_stems: int) -> int:
        return math.ceil(max(1, n_stems) / max(1, self.shop.jobs))

    def _probe(self) -> float:
        n_all, batch = len(self.shop.data.train), Distill().batch_size
        n, most = min(PROBE_ROWS, n_all), min(n_all, PROBE_STEPS * batch)
        while (spent_s := self._training_s(n)) < PROBE_S and n < most:
            n = min(PROBE_GROWTH * n, most)
        # A step costs something by itself, however few its rows: by rows that would be too much.
        steps = math.ceil(n_all / batch) / math.ceil(n / batch)
        return spent_s * min(n_all / n, steps) if n < batch else spent_s * n_all / n

    def _training_s(self, n: int) -> float:
        """How long one pass over so many rows takes."""
        data = self.shop.data
        few = np.linspace(0, len(data.train) - 1, n).astype(np.int64)  # rows may be sorted by class
        logits = None if data.teacher_logits is None else data.teacher_logits[few]
        some = replace(data, train=data.train.take(few), teacher_logits=logits, progress=False)
        step: Distill | FineTune = FineTune(1) if logits is None else Distill(1)
        started = time.monotonic()
        with contextlib.suppress(HlserveError):  # said when it is really tried
            step.transform(self.shop.network, some)
        return time.monotonic() - started
