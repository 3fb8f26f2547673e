"""How long runs take, by what was measured: for short runs inline, and for admission."""

from __future__ import annotations

from dataclasses import dataclass

# A run shorter than this goes inline: a worker thread costs about 60 us to wake and to answer,
# and the event loop can bear so short a pause.
INLINE_RUN_S = 0.0002

_SMOOTHING = 0.25  # weight of the newest measurement
_CREEP = 0.005  # the same where it is above the low one
_TRIED_AGAIN_AFTER = 512  # runs, until what was too long inline is tried again
# A first run allocates and tunes; before so many measurements nobody is refused on their strength.
_TRUSTED_COUNT = 3


@dataclass(slots=True)
class Times:
    """Smoothed seconds of what is done again and again.

    Attributes:
        mean_s: how long it takes.
        deviation_s: how far from that, as a rule.
        least_s: the least there was.
        low_s: how long where nothing comes between: near the least of late.
        inline_s: the mean of runs on the loop, which none of our threads held up; None: none yet.
    """

    mean_s: float
    deviation_s: float
    least_s: float
    count: int = 1
    low_s: float = 0.0
    inline_s: float | None = None

    def add(self, seconds: float) -> None:
        """Moves toward a measurement."""
        self.low_s = min(seconds, self.low_s + _CREEP * (seconds - self.low_s))
        error_s = seconds - self.mean_s
        self.mean_s += _SMOOTHING * error_s
        self.deviation_s += _SMOOTHING * (abs(error_s) - self.deviation_s)
        self.least_s = min(self.least_s, seconds)
        self.count += 1

    def relax(self) -> None:
        """Moves toward the least seen."""
        self.mean_s += _SMOOTHING * (self.least_s - self.mean_s)
        self.deviation_s -= _SMOOTHING * self.deviation_s


_UNKNOWN = Times(0.0, 0.0, 0.0)


class RunTimes:
    """The times of one model's runs, by the size of their inputs (a power of two of elements)."""

    def __init__(self) -> None:
        self._by_size: dict[int, Times] = {}
        self._longest_s: float | None = 0.0
        self._overhead = Times(0.0, 0.0, 0.0, count=0)

    @property
    def overhead_s(self) -> float:
        """What a run in a worker takes beside the run: waking it, and coming back to the loop."""
        return self._overhead.mean_s

    def is_short(self, elements: int) -> bool:
        """Whether a run of this very size may go inline; False where it was not seen yet.

        In a thread a run is held up by the loop, so the low times there say whether to try, and
        the mean of those that went inline whether to go on. A failed try is forgotten after a
        while.
        """
        times = self._by_size.get(elements.bit_length())
        if times is None:
            return False
        if times.inline_s is not None and times.count % _TRIED_AGAIN_AFTER == 0:
            times.inline_s = None
        return (times.low_s if times.inline_s is None else times.inline_s) <= INLINE_RUN_S

    @property
    def longest_s(self) -> float:
        """What no run takes longer than, with its overhead, unless things go worse than usual."""
        if self._longest_s is None:
            runs = [times.mean_s + 2 * times.deviation_s for times in self._by_size.values()]
            self._longest_s = max(runs, default=0.0)
        return self._longest_s + self._overhead.mean_s

    def expected(self, elements: int) -> Times:
        """What to reckon with; where the size was not seen, that of the next smaller one.

        All zero where there is none: what is not known refuses nobody.
        """
        for size in range(elements.bit_length(), -1, -1):
            times = self._by_size.get(size)
            if times is not None and times.count >= _TRUSTED_COUNT:
                return times
        return _UNKNOWN

    def record(self, elements: int, seconds: float, *, is_inline: bool = False) -> None:
        """Takes in one run."""
        self._longest_s = None
        times = self._by_size.get(elements.bit_length())
        if times is None:
            times = Times(seconds, 0.0, seconds, low_s=seconds)
            self._by_size[elements.bit_length()] = times
        else:
            times.add(seconds)
        if is_inline:
            inline_s = seconds if times.inline_s is None else times.inline_s
            times.inline_s = inline_s + _SMOOTHING * (seconds - inline_s)

    def record_overhead(self, seconds: float) -> None:
        """Takes in what one run took beside the run."""
        self._overhead.add(max(0.0, seconds))

    def relax(self) -> None:
        """Moves every estimate toward the least seen.

        Called where a request is refused while nothing runs: without runs nothing is measured, and
        one slow moment would refuse everybody for ever.
        """
        self._longest_s = None
        for times in (*self._by_size.values(), self._overhead):
            times.relax()
