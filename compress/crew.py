"""Workers, each a process of its own, and what they say.

What a worker does is a function of its end of a pipe and of a lesson, the plain values that all
orders share; orders and messages are plain values too. Nobody else can open the pipe.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Generic, Self, TypeVar

from hlserve.errors import TrainingError

L = TypeVar("L")  # the lesson
Task = TypeVar("Task")  # an order
M = TypeVar("M")  # a message

Work = Callable[[Connection, L], None]

_LEAVE_S = 5.0  # for a worker that was told to end


class Worker:
    """A process that does at most one order at a time."""

    def __init__(self, work: Work[L], lesson: L) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=work, args=(theirs, lesson), daemon=True
        )
        # Ctrl-C is for us alone: a process started while the signal is blocked keeps it so.
        # The first start would unblock it, by starting the tracker too; so that comes before.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # so that the pipe ends with the worker

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self.process.terminate()
        self.process.join(_LEAVE_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()  # last: a worker would leave by this way too, at the same time


class Crew(Generic[L, Task, M]):
    """Up to ``jobs`` workers, started when there is work; leaving the ``with`` ends them."""

    def __init__(self, work: Work[L], lesson: L, jobs: int) -> None:
        self._work = work
        self._lesson = lesson
        self._jobs = jobs
        self._idle: list[Worker] = []
        self._busy: dict[int, Worker] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in (*self._idle, *self._busy.values()):
            worker.close()

    @property
    def processes(self) -> tuple[SpawnProcess, ...]:
        """Every process, at work or not."""
        return tuple(worker.process for worker in (*self._idle, *self._busy.values()))

    @property
    def is_free(self) -> bool:
        """Whether another order can be taken."""
        return len(self._busy) < self._jobs

    def start(self, number: int, order: Task) -> None:
        """Gives an order to a worker without one."""
        worker = self._idle.pop() if self._idle else Worker(self._work, self._lesson)
        worker.connection.send(order)
        self._busy[number] = worker

    def answer(self, number: int, *, go_on: bool) -> None:
        """What a worker waits for after an epoch."""
        self._busy[number].connection.send(go_on)

    def release(self, number: int) -> None:
        """The trial is over, its worker free again."""
        self._idle.append(self._busy.pop(number))

    def messages(self, timeout_s: float | None) -> Iterator[tuple[int, M]]:
        """What workers have to say, as soon as one has; nothing where the time is up.

        Raises:
            TrainingError: a worker died.
        """
        owners: dict[Connection, int] = {w.connection: n for n, w in self._busy.items()}
        for ready in wait(list(owners), timeout_s):
            assert isinstance(ready, Connection)
            number = owners[ready]
            try:
                message: M = ready.recv()
            except (EOFError, ConnectionResetError):
                raise self._death(number) from None
            yield number, message

    def _death(self, number: int) -> TrainingError:
        process = self._busy[number].process
        process.join(_LEAVE_S)
        return TrainingError(
            f"the process that trained trial {number} died (exit code {process.exitcode}); "
            "--resume goes on with the others, fewer --jobs need less memory"
        )
