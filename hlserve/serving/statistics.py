"""What a model has done so far: counts, durations by phase, histograms.

Everything is recorded on the event loop, so nothing locks. Phases are Triton's: ``queue`` until the
batch is taken, ``compute_input`` joining rows, ``compute_infer`` the run, ``compute_output`` taking
the answers apart; ``success`` is the whole, from the data plane's door to the answer. One phase is
ours: ``encode``, making the response message of the answer.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from hlserve import errors

# Triton's reasons of nv_inference_request_failure.
FailureReason = Literal["REJECTED", "CANCELED", "BACKEND", "OTHER"]
FAILURE_REASONS: tuple[FailureReason, ...] = ("REJECTED", "CANCELED", "BACKEND", "OTHER")

# Upper bounds in seconds; what a small network takes on the left, what a queue can on the right.
HISTOGRAM_BOUNDS_S = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
_BOUNDS_NS = tuple(round(bound * 1e9) for bound in HISTOGRAM_BOUNDS_S)

_MOST_ROWS_APART = 1024  # a power of two: runs of more rows are counted by the next one


@dataclass(slots=True)
class Duration:
    """How often something was done, how long all of it took, and how the times spread.

    Attributes:
        count: how often.
        ns: all together, nanoseconds.
        buckets: how many fell into each part between ``HISTOGRAM_BOUNDS_S``, the last above all;
            empty: the spread is not recorded.
    """

    count: int = 0
    ns: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(_BOUNDS_NS) + 1))

    @classmethod
    def without_buckets(cls) -> Duration:
        """One that counts and sums, and does not record how the times spread."""
        return cls(buckets=[])

    def add(self, ns: int, count: int = 1) -> None:
        """Counts one, or several that took as long each."""
        self.count += count
        self.ns += ns * count
        if self.buckets:
            self.buckets[bisect_left(_BOUNDS_NS, ns)] += count


@dataclass(slots=True)
class BatchStatistics:
    """All runs of one number of rows; totals in nanoseconds."""

    count: int = 0
    compute_input_ns: int = 0
    compute_infer_ns: int = 0
    compute_output_ns: int = 0


class Phases(NamedTuple):
    """What one request spent in each phase, nanoseconds."""

    queue_ns: int = 0
    compute_input_ns: int = 0
    compute_infer_ns: int = 0
    compute_output_ns: int = 0


class ModelStatistics:
    """One version's record; it starts empty when the version is loaded.

    Args:
        histograms: whether the spread of the times is recorded, beside counts and sums.

    Attributes:
        inference_count: rows answered (a request of three rows counts three).
        execution_count: runs; joined requests share one.
        executed_rows: rows of all runs, answered or not.
        batches: runs by their number of rows; above 1024 by the next power of two, so that
            requests of every size there is cannot fill the memory.
        last_inference_ms: milliseconds since the epoch of the last answer; 0: none yet.
        pending: requests taken and not answered yet.
        late: requests that ran in vain: their deadline passed before the answer was there.
    """

    def __init__(self, *, histograms: bool = True) -> None:
        duration = Duration if histograms else Duration.without_buckets
        self.inference_count = 0
        self.execution_count = 0
        self.last_inference_ms = 0
        self.pending = 0
        self.late = 0
        self.success = duration()
        self.fail = duration()
        self.failures: dict[FailureReason, int] = dict.fromkeys(FAILURE_REASONS, 0)
        self.queue = duration()
        self.compute_input = duration()
        self.compute_infer = duration()
        self.compute_output = duration()
        self.encode = duration()
        self.executed_rows = 0
        self.batches: dict[int, BatchStatistics] = {}

    def executed(self, rows: int, input_ns: int, infer_ns: int, output_ns: int) -> None:
        """Counts one run of so many rows."""
        self.execution_count += 1
        self.executed_rows += rows
        size = rows if rows <= _MOST_ROWS_APART else 1 << (rows - 1).bit_length()
        batch = self.batches.setdefault(size, BatchStatistics())
        batch.count += 1
        batch.compute_input_ns += input_ns
        batch.compute_infer_ns += infer_ns
        batch.compute_output_ns += output_ns

    def answered(self, count: int, rows: int, total_ns: int, phases: Phases) -> None:
        """Counts requests that got their answers: so many, of so many rows together, alike."""
        self.inference_count += rows
        self.last_inference_ms = time.time_ns() // 1_000_000
        self.success.add(total_ns, count)
        self.queue.add(phases.queue_ns, count)
        self.compute_input.add(phases.compute_input_ns, count)
        self.compute_infer.add(phases.compute_infer_ns, count)
        self.compute_output.add(phases.compute_output_ns, count)

    def failed(self, reason: FailureReason, total_ns: int) -> None:
        """Counts one request that got none."""
        self.fail.add(total_ns)
        self.failures[reason] += 1


def failure_reason(error: BaseException) -> FailureReason:
    """Triton's word for why a request got no answer."""
    if isinstance(error, errors.UnavailableError | errors.DeadlineExceededError):
        return "REJECTED"
    if isinstance(error, errors.CancelledError | asyncio.CancelledError):
        return "CANCELED"
    if isinstance(error, errors.InferenceError | errors.ProviderError):
        return "BACKEND"
    return "OTHER"
