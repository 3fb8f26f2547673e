"""A call without a task: begun at once, gone on with each future, cancelled where it waits."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from hlserve.serving.transports.http2.eager_call import EagerCall


def run(test: Callable[[asyncio.AbstractEventLoop, list[str]], Awaitable[None]]) -> list[str]:
    """What the test noted, and what reached the loop's exception handler."""
    noted: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: noted.append(str(context["exception"])))
        await test(loop, noted)

    asyncio.run(main())
    return noted


async def waiting(noted: list[str], *futures: asyncio.Future[str]) -> None:
    noted.append("begun")
    try:
        for future in futures:
            noted.append(await future)
    finally:
        noted.append("ended")


def test_it_begins_at_once_and_goes_on_with_each_future() -> None:
    async def test(loop: asyncio.AbstractEventLoop, noted: list[str]) -> None:
        first, second = loop.create_future(), loop.create_future()
        EagerCall(waiting(noted, first, second))
        assert noted == ["begun"]
        second.set_result("second")
        first.set_result("first")
        await asyncio.sleep(0)
        assert noted == ["begun", "first", "second", "ended"]  # what is done is not waited for

    assert run(test) == ["begun", "first", "second", "ended"]


def test_what_a_future_fails_with_is_raised_where_it_is_awaited() -> None:
    async def test(loop: asyncio.AbstractEventLoop, noted: list[str]) -> None:
        async def catching() -> None:
            with pytest.raises(ValueError, match="broken"):
                await future
            noted.append("caught")

        future = loop.create_future()
        EagerCall(catching())
        future.set_exception(ValueError("broken"))
        await asyncio.sleep(0)

    assert run(test) == ["caught"]


def test_a_cancelled_call_unwinds_and_cancels_what_it_waits_for() -> None:
    async def test(loop: asyncio.AbstractEventLoop, noted: list[str]) -> None:
        future = loop.create_future()
        call = EagerCall(waiting(noted, future))
        call.cancel()
        assert future.cancelled()
        await asyncio.sleep(0)
        call.cancel()  # it is over: nothing to do

    assert run(test) == ["begun", "ended"]


def test_an_answer_that_is_there_already_is_not_lost_by_a_cancellation() -> None:
    async def test(loop: asyncio.AbstractEventLoop, noted: list[str]) -> None:
        future = loop.create_future()
        call = EagerCall(waiting(noted, future))
        future.set_result("there")
        call.cancel()
        await asyncio.sleep(0)

    assert run(test) == ["begun", "there", "ended"]
