"""The runs that worker threads do: which go on, until when, and what lies behind each."""

from __future__ import annotations

from dataclasses import dataclass

from hlserve.serving.batching.pending import Pending
from hlserve.serving.batching.run_threads import Job


@dataclass(eq=False, slots=True)
class InFlight:
    """A batch that a worker runs, or will without asking the loop.

    Attributes:
        batch: its requests.
        begun_s: when it was given to the thread; of one that lies behind another, when that ended.
        until_s: when it ends; a guess.
        job: what the thread does.
        following: the batch that its thread goes on with; None: none yet.
    """

    batch: list[Pending]
    begun_s: float
    until_s: float
    job: Job
    following: InFlight | None = None

    @property
    def thread_free_s(self) -> float:
        """When its thread can take another batch; a guess."""
        return self.until_s if self.following is None else self.following.until_s
