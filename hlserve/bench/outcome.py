"""What the callers of a load saw: throughput, percentiles of the latency, errors by status."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

ANSWERED = "OK"
PERCENTILES = (50.0, 90.0, 99.0, 99.9)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One measurement.

    In an open loop the latency counts from when a request was meant to be sent. Counting from when
    it was sent would leave out the waits of those that a slow server held back (coordinated
    omission; G. Tene, "How NOT to Measure Latency").

    Attributes:
        at_s: when each request was meant to be sent, from the start, in the order of the answers.
        latency_s: from then to its answer or error.
        statuses: ``OK`` or the error's gRPC status, one a request.
        seconds: from the start to the last answer.
        rows: of one request.
        offered_rate: requests a second of an open loop; None: a closed loop.
        server_cpu_s: processor time of the server meanwhile; None where it cannot be known.
    """

    at_s: Array
    latency_s: Array
    statuses: tuple[str, ...]
    seconds: float
    rows: int
    offered_rate: float | None = None
    server_cpu_s: float | None = None

    @property
    def answered(self) -> Array:
        """Which requests were answered."""
        return np.array([status == ANSWERED for status in self.statuses], dtype=bool)

    @property
    def per_second(self) -> float:
        """Requests answered a second."""
        return float(self.answered.sum()) / self.seconds if self.seconds else 0.0

    @property
    def errors(self) -> dict[str, int]:
        """How many requests ended with each other status, the most frequent first."""
        counts = Counter(status for status in self.statuses if status != ANSWERED)
        return dict(counts.most_common())

    def percentile_s(self, percent: float) -> float:
        """The latency that so many % of the answers kept, seconds; NaN without answers."""
        answered = self.latency_s[self.answered]
        return float(np.percentile(answered, percent)) if len(answered) else float("nan")

    def as_json(self) -> dict[str, Any]:
        """Plain values; latencies in milliseconds, None where nothing was answered."""
        names = {f"p{percent:g}": percent for percent in PERCENTILES} | {"max": 100.0}
        has_answers = bool(self.answered.any())
        return {
            "loop": "closed" if self.offered_rate is None else "open",
            "offered_per_second": self.offered_rate,
            "seconds": self.seconds,
            "requests": len(self.statuses),
            "answered": int(self.answered.sum()),
            "per_second": self.per_second,
            "rows_per_second": self.per_second * self.rows,
            "latency_ms": {
                name: 1e3 * self.percentile_s(percent) if has_answers else None
                for name, percent in names.items()
            },
            "errors": self.errors,
            "server_cpu_s": self.server_cpu_s,
        }
