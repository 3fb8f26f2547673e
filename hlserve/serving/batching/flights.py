"""The runs that worker threads do: which go on, until when, and what lies behind each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hlserve.serving.batching.pending import Pending
from hlserve.serving.batching.run import BatchResult, BatchRun
from hlserve.serving.batching.run_threads import Job


class InFlight(Job):
    """A batch that a worker runs, or will without asking the loop.

    Args:
        batch: its requests.
        runner: runs them.
        done: called on the loop, with this and what became of the batch.
        begun_s: when it was given to the thread; of one that lies behind another, when that ended.
        usual_s: what such a batch takes.

    Attributes:
        until_s: when it ends; a guess.
        following: the batch that its thread goes on with; None: none yet.
    """

    __slots__ = ("batch", "begun_s", "following", "until_s")

    def __init__(
        self,
        batch: list[Pending],
        runner: BatchRun,
        done: Callable[[InFlight, BatchResult | None], None],
        *,
        begun_s: float,
        usual_s: float,
    ) -> None:
        super().__init__(partial(runner, batch), done)
        self.batch = batch
        self.begun_s = begun_s
        self.until_s = begun_s + usual_s
        self.following: InFlight | None = None

    @property
    def thread_free_s(self) -> float:
        """When its thread can take another batch; a guess."""
        return self.until_s if self.following is None else self.following.until_s

    @property
    def rows_behind(self) -> int:
        """Rows that wait for its thread, beside those in the queue."""
        return 0 if self.following is None else sum(p.rows for p in self.following.batch)

    def begin_at(self, now_s: float) -> None:
        """The one before it ended."""
        self.until_s += now_s - self.begun_s
        self.begun_s = now_s
