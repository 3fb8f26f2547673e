"""Calls that take effect in every process: by real channels, between real ends."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from hlserve.errors import (
    HlserveError,
    InvalidRequestError,
    ModelNotFoundError,
    ModelNotReadyError,
    UnavailableError,
)
from hlserve.pb.messages import inference
from hlserve.rpcs import find
from hlserve.serving.control import Answered, Control, Failed
from hlserve.serving.journal import Journal
from hlserve.serving.switchboard import Switchboard
from hlserve.serving.transports.everywhere import joined
from hlserve.serving.worker import Worker

LOAD, UNLOAD = find("RepositoryModelLoad"), find("RepositoryModelUnload")
REGISTER, UNREGISTER = find("SystemSharedMemoryRegister"), find("SystemSharedMemoryUnregister")
LOG, STATISTICS = find("LogSettings"), find("ModelStatistics")
TIMEOUT_S = 20


class Process:
    """A process as the switchboard sees it: what it ran, and what it answers."""

    def __init__(self, does: str) -> None:
        self.ran: list[tuple[str, bytes]] = []
        self.does = does
        self.is_out_of_step = asyncio.Event()
        self.is_listening = asyncio.Event()
        self.has_begun = asyncio.Event()
        self.worker: Worker
        self.control: Control
        self.line: asyncio.Task[None]

    async def run_here(self, path: str, request: bytes) -> bytes:
        self.ran.append((path, request))
        if self.does == "fail":
            raise ModelNotFoundError("model 'm' is not here")
        self.has_begun.set()
        if self.does == "hang":
            await asyncio.Future()
        if self.does == "die":
            self.control.close()
            await asyncio.Future()
        return b"done"


class Processes:
    """A switchboard, and processes that join it; all channels are closed at the end."""

    def __init__(self) -> None:
        self.times_up = asyncio.Semaphore(0)  # released: the time of one call is up
        self._switchboard = Switchboard(600, self._wait)
        self._joined: list[Process] = []

    async def _wait(self, _: float) -> None:
        await self.times_up.acquire()

    async def join(self, does: str = "answer") -> Process:
        ours, theirs = socket.socketpair()
        near = Control(*await asyncio.open_unix_connection(sock=ours))
        process = Process(does)
        process.control = Control(*await asyncio.open_unix_connection(sock=theirs))
        process.line = asyncio.create_task(
            self._switchboard.connect(
                near,
                on_listening=process.is_listening.set,
                on_out_of_step=process.is_out_of_step.set,
            )
        )
        process.worker = Worker(process.control)
        self._joined.append(process)
        await process.worker.catch_up(process.run_here)
        process.worker.listening()
        await process.is_listening.wait()
        return process

    async def close(self) -> None:
        for process in self._joined:
            process.control.close()
            await asyncio.wait((process.line,))
            await process.worker.supervisor_gone()


def run(law: Callable[[Processes], Awaitable[Any]]) -> None:
    async def closed() -> None:
        processes = Processes()
        try:
            await law(processes)
        finally:
            await processes.close()

    asyncio.run(asyncio.wait_for(closed(), TIMEOUT_S))


def load(name: str) -> bytes:
    return inference.RepositoryModelLoadRequest(model_name=name).SerializeToString()


def test_a_call_runs_in_every_process_and_in_one_that_starts_later() -> None:
    async def law(processes: Processes) -> None:
        first, second = await processes.join(), await processes.join()
        outcomes = await first.worker.ask_all(LOAD.path, load("m"))
        assert [outcome.response for outcome in outcomes if isinstance(outcome, Answered)] == [
            b"done",
            b"done",
        ]
        assert first.ran == second.ran == [(LOAD.path, load("m"))]
        late = await processes.join()
        assert late.ran == first.ran
        assert len(await late.worker.ask_all(STATISTICS.path, b"")) == 3

    run(law)


def test_where_it_fails_in_some_its_caller_is_told_and_those_are_replaced() -> None:
    async def law(processes: Processes) -> None:
        good, bad = await processes.join(), await processes.join("fail")
        outcomes = await good.worker.ask_all(LOAD.path, load("m"))
        with pytest.raises(ModelNotFoundError, match="in 1 of 2 processes, which are being repl"):
            joined(LOAD, outcomes)
        assert bad.is_out_of_step.is_set()
        assert not good.is_out_of_step.is_set()
        late = await processes.join()
        assert late.ran == [(LOAD.path, load("m"))]

    run(law)


def test_where_it_fails_in_all_nothing_is_noted_and_the_error_is_its_own() -> None:
    async def law(processes: Processes) -> None:
        first, second = await processes.join("fail"), await processes.join("fail")
        outcomes = await second.worker.ask_all(LOAD.path, load("m"))
        with pytest.raises(ModelNotFoundError, match=r"^model 'm' is not here$"):
            joined(LOAD, outcomes)
        assert not first.is_out_of_step.is_set()
        late = await processes.join()
        assert late.ran == []

    run(law)


def test_a_process_that_dies_in_a_call_holds_up_nobody() -> None:
    async def law(processes: Processes) -> None:
        alive, dying = await processes.join(), await processes.join("die")
        outcomes = await alive.worker.ask_all(LOAD.path, load("m"))
        assert outcomes == [Answered(0, b"done")]
        await dying.line

    run(law)


def test_a_process_that_hangs_in_a_call_is_replaced_and_holds_up_no_later_one() -> None:
    async def law(processes: Processes) -> None:
        alive, hanging = await processes.join(), await processes.join("hang")
        first = asyncio.create_task(alive.worker.ask_all(LOAD.path, load("m")))
        second = asyncio.create_task(alive.worker.ask_all(LOAD.path, load("n")))
        await alive.has_begun.wait()
        await hanging.has_begun.wait()
        assert alive.ran == [(LOAD.path, load("m"))]
        assert not hanging.is_out_of_step.is_set()
        processes.times_up.release()
        with pytest.raises(
            UnavailableError, match=r"in 1 of 2 processes.* did not answer within 600 s"
        ):
            joined(LOAD, await first)
        assert hanging.is_out_of_step.is_set()
        assert [outcome for outcome in await second if isinstance(outcome, Answered)]
        assert hanging.ran == [(LOAD.path, load("m"))]
        late = await processes.join()
        assert late.ran == alive.ran == [(LOAD.path, load("m")), (LOAD.path, load("n"))]

    run(law)


def test_a_process_that_is_late_with_its_counts_is_left_out_and_stays() -> None:
    async def law(processes: Processes) -> None:
        alive, hanging = await processes.join(), await processes.join("hang")
        asked = asyncio.create_task(alive.worker.ask_all(STATISTICS.path, b""))
        await alive.has_begun.wait()
        await hanging.has_begun.wait()
        processes.times_up.release()
        assert await asked == [Answered(0, b"done")]
        assert not hanging.is_out_of_step.is_set()

    run(law)


def test_where_every_process_hangs_all_are_replaced_and_nothing_is_noted() -> None:
    async def law(processes: Processes) -> None:
        hanging = [await processes.join("hang") for _ in range(2)]
        asked = asyncio.create_task(hanging[0].worker.ask_all(LOAD.path, load("m")))
        for process in hanging:
            await process.has_begun.wait()
        processes.times_up.release()
        with pytest.raises(UnavailableError, match=r"^a process did not answer within 600 s"):
            joined(LOAD, await asked)
        assert all(process.is_out_of_step.is_set() for process in hanging)
        assert (await processes.join()).ran == []

    run(law)


def test_a_process_whose_supervisor_is_gone_answers_so() -> None:
    async def law(processes: Processes) -> None:
        process = await processes.join()
        process.line.cancel()
        await process.worker.supervisor_gone()
        with pytest.raises(UnavailableError, match="its supervisor is gone"):
            await process.worker.ask_all(LOAD.path, load("m"))

    run(law)


def test_the_notes_hold_what_is_in_effect_and_no_more() -> None:
    journal = Journal()
    unload = inference.RepositoryModelUnloadRequest(model_name="a").SerializeToString()
    journal.add(LOAD.path, load("a"))
    journal.add(LOAD.path, load("b"))
    journal.add(UNLOAD.path, unload)
    assert journal.calls == [(LOAD.path, load("b")), (UNLOAD.path, unload)]

    journal = Journal()
    for name in ("r", "s"):
        request = inference.SystemSharedMemoryRegisterRequest(name=name)
        journal.add(REGISTER.path, request.SerializeToString())
    forget = inference.SystemSharedMemoryUnregisterRequest(name="r").SerializeToString()
    journal.add(UNREGISTER.path, forget)
    assert len(journal.calls) == 1
    journal.add(UNREGISTER.path, b"")
    assert journal.calls == []

    journal.add(LOG.path, b"")
    assert journal.calls == [], "a question changes nothing"
    for name, value in (("log_info", False), ("log_error", False), ("log_info", True)):
        request = inference.LogSettingsRequest()
        request.settings[name].bool_param = value
        journal.add(LOG.path, request.SerializeToString())
    ((_, kept),) = journal.calls
    settings = inference.LogSettingsRequest.FromString(kept).settings
    assert {name: value.bool_param for name, value in settings.items()} == {
        "log_info": True,
        "log_error": False,
    }


def test_statistics_of_processes_are_added_up() -> None:
    def answer(inferences: int, last: int, *batch_sizes: int) -> Answered:
        response = inference.ModelStatisticsResponse()
        model = response.model_stats.add(name="m", version="1")
        model.inference_count = inferences
        model.last_inference = last
        model.inference_stats.success.count = inferences
        model.inference_stats.success.ns = 100
        for size in batch_sizes:
            batch = model.batch_stats.add(batch_size=size)
            batch.compute_infer.count = 1
        return Answered(0, response.SerializeToString())

    failed = Failed(0, "ModelNotReadyError", "model 'm' is not ready")
    total = joined(STATISTICS, [answer(3, 50, 1, 2), failed, answer(4, 40, 2, 8)])
    with pytest.raises(ModelNotReadyError, match=r"^model 'm' is not ready$"):
        joined(STATISTICS, [failed, failed])
    assert isinstance(total, inference.ModelStatisticsResponse)
    (model,) = total.model_stats
    assert (model.name, model.version) == ("m", "1")
    assert (model.inference_count, model.last_inference) == (7, 50)
    success = model.inference_stats.success
    assert (success.count, success.ns) == (7, 200)
    assert {b.batch_size: b.compute_infer.count for b in model.batch_stats} == {1: 1, 2: 2, 8: 1}


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("InvalidRequestError", InvalidRequestError),
        ("ServerError", HlserveError),
        ("no such class", HlserveError),
    ],
)
def test_an_error_keeps_its_class_on_its_way(name: str, cls: type[HlserveError]) -> None:
    with pytest.raises(HlserveError) as caught:
        joined(LOAD, [Failed(0, name, "words")])
    assert type(caught.value) is cls
    assert str(caught.value) == "words"


def test_no_answer_at_all_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match="every process ended meanwhile"):
        joined(LOAD, [])
