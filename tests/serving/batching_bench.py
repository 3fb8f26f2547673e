"""A batcher on a clock that tests turn, over a model that runs when it is told to."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlserve.serving.batching import DynamicBatcher, RunThreads
from hlserve.serving.batching_config import BatchingConfig
from hlserve.serving.statistics import ModelStatistics

Array = NDArray[Any]
START_S = 1000.0


class ManualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still until ``turn_clock``."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = round(START_S * 1e9)

    def time(self) -> float:
        return self.now_ns / 1e9

    async def turn_clock(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)
        await turns()


async def turns(count: int = 6) -> None:
    """Lets everything that is ready happen."""
    for _ in range(count):
        await asyncio.sleep(0)


@dataclass
class Bench:
    """A batcher on a manual clock, over a model that runs when it is told to.

    Attributes:
        loop: turns the clock.
        run_s: what a run takes on that clock.
        runs: the first value of each row of each run, as they were run.
        ready: released once for each run that may end.
    """

    loop: ManualLoop
    threads: RunThreads
    statistics: ModelStatistics = field(default_factory=ModelStatistics)
    run_s: float = 0.010
    runs: list[list[float]] = field(default_factory=list)
    ready: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    started: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        self.runs.append(inputs["x"][:, 0].tolist())
        self.started.release()
        assert self.ready.acquire(timeout=20)
        self.loop.now_ns += round(self.run_s * 1e9)
        return {"y": inputs["x"] * 2}

    def batcher(self, *, instances: int = 1, cost: int = 1, **config: Any) -> DynamicBatcher:
        return DynamicBatcher(
            self.run,
            BatchingConfig(**config),
            self.threads,
            label="model 'm'",
            joins=True,
            statistics=self.statistics,
            instances=instances,
            threads_a_run=cost,
            clock_ns=lambda: self.loop.now_ns,
        )

    def ask(self, target: DynamicBatcher, value: float, **kwargs: Any) -> asyncio.Task[Any]:
        rows = kwargs.pop("rows", 1)
        inputs = {"x": np.full((rows, kwargs.pop("width", 2)), value, np.float32)}
        if "in_s" in kwargs:
            kwargs["deadline_s"] = self.loop.time() + kwargs.pop("in_s")
        return asyncio.ensure_future(_outputs(target, inputs, kwargs))

    async def busy(self, target: DynamicBatcher, value: float = 0.0) -> asyncio.Task[Any]:
        """A request that runs until ``finish``."""
        task = self.ask(target, value)
        await turns()
        await asyncio.to_thread(self.started.acquire)
        return task

    async def finish(self, *tasks: Awaitable[Any]) -> list[Any]:
        """Lets as many runs end as are needed for these answers."""
        for _ in tasks:
            self.ready.release()
        return await asyncio.gather(*tasks, return_exceptions=True)

    async def learn(self, target: DynamicBatcher, rows: int = 1) -> None:
        """Three runs, after which the batcher trusts what they took."""
        for _ in range(3):
            await self.finish(self.ask(target, -1.0, rows=rows))
        self.runs.clear()


def on_bench(main: Callable[[Bench], Coroutine[Any, Any, Any]], threads: int = 1) -> Any:
    budget = RunThreads(threads)
    try:
        with asyncio.Runner(loop_factory=ManualLoop) as runner:
            loop = runner.get_loop()
            assert isinstance(loop, ManualLoop)
            return runner.run(main(Bench(loop, budget)))
    finally:
        budget.shutdown(wait=True)


async def _outputs(
    target: DynamicBatcher, inputs: Mapping[str, Array], options: Mapping[str, Any]
) -> Any:
    return (await target.answer(inputs, ("y",), **options)).outputs
