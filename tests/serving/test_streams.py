"""ModelStreamInfer: order, errors that do not end the stream, back-pressure, cancelling."""

import asyncio
import queue
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from hlserve.pb.messages import inference
from hlserve.rpcs import find
from hlserve.serving.transports.streams import answered_in_order
from tests.serving import models
from tests.serving.running import RunningServer

Request = inference.ModelInferRequest
Response = inference.ModelStreamInferResponse


def request(model: str, number: int, rows: int = 1) -> Request:
    message = Request(model_name=model, id=str(number))
    message.inputs.add(name="x", datatype="FP32", shape=[rows, 1])
    message.raw_input_contents.append(np.full(rows, number, np.float32).tobytes())
    return message


def stream(channel: grpc.Channel, requests: Iterator[Request | bytes], timeout: float = 30) -> Any:
    call = channel.stream_stream(
        find("ModelStreamInfer").path,
        request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
        response_deserializer=Response.FromString,
    )
    return call(requests, timeout=timeout)


def test_answers_come_in_the_order_of_the_requests(server: RunningServer) -> None:
    """A slow one first: those behind it are ready sooner, and still come later."""
    slow = Request(model_name="slow", id="0")
    for name, array in models.slow_inputs(steps=200).items():
        datatype = "INT64" if name == "steps" else "FP32"
        slow.inputs.add(name=name, datatype=datatype, shape=array.shape)
        slow.raw_input_contents.append(array.tobytes())
    rest = [request("identity_FP32", number) for number in range(1, 300)]
    with grpc.insecure_channel(server.address) as channel:
        answers = list(stream(channel, iter([slow, *rest])))
    assert [answer.infer_response.id for answer in answers] == [str(n) for n in range(300)]
    values = [np.frombuffer(a.infer_response.raw_output_contents[0], "<f4")[0] for a in answers[1:]]
    assert values == list(range(1, 300))


def test_an_error_is_an_answer_and_the_stream_goes_on(server: RunningServer) -> None:
    bad = request("identity_FP32", 2)
    bad.raw_input_contents[0] = b"123"
    requests = [request("identity_FP32", 1), bad, request("absent", 3), request("identity_FP32", 4)]
    with grpc.insecure_channel(server.address) as channel:
        answers = list(stream(channel, iter(requests)))
    assert [answer.infer_response.id for answer in answers] == ["1", "2", "3", "4"]
    words = [answer.error_message for answer in answers]
    assert (words[0], words[3]) == ("", "")
    assert "input 'x': raw contents hold 3 bytes" in words[1]
    assert "model 'absent' is not in this server's repository" in words[2]
    assert not answers[1].infer_response.outputs


def test_requests_of_every_kind_wait_in_one_line(server: RunningServer) -> None:
    """Raw ones may be read without protobuf; typed ones, parameters and errors are not."""
    requests = []
    for number in range(40):
        message = request("identity_FP32", number)
        if number % 4 == 1:
            message.raw_input_contents.clear()
            message.inputs[0].contents.fp32_contents.append(number)
        elif number % 4 == 2:
            message.parameters["triton_enable_empty_final_response"].bool_param = True
        elif number % 4 == 3:
            message.model_name = "absent"
        requests.append(message)
    with grpc.insecure_channel(server.address) as channel:
        answers = list(stream(channel, iter(requests)))
    assert [answer.infer_response.id for answer in answers] == [str(n) for n in range(40)]
    for number, answer in enumerate(answers):
        assert bool(answer.error_message) is (number % 4 == 3)
        if number % 4 != 3:
            (raw,) = answer.infer_response.raw_output_contents
            assert np.frombuffer(raw, "<f4").tolist() == [number]


def test_a_stream_ends_at_its_deadline(server: RunningServer) -> None:
    waiting: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
    with grpc.insecure_channel(server.address) as channel:
        answers = stream(channel, iter(waiting.get, None), timeout=0.5)
        waiting.put(request("identity_FP32", 1))
        assert next(answers).infer_response.id == "1"
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        waiting.put(None)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_malformed_message_ends_the_stream_after_the_answers_before_it(
    server: RunningServer,
) -> None:
    with grpc.insecure_channel(server.address) as channel:
        answers = stream(channel, iter([request("identity_FP32", 1), b"\xff" * 9]))
        assert next(answers).infer_response.id == "1"
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("asks", [True, False])
def test_the_final_answer_is_marked_where_that_is_asked_for(
    server: RunningServer, asks: bool
) -> None:
    message = request("identity_FP32", 1)
    message.parameters["triton_enable_empty_final_response"].bool_param = asks
    with grpc.insecure_channel(server.address) as channel:
        (answer,) = stream(channel, iter([message]))
    parameters = answer.infer_response.parameters
    assert parameters["triton_final_response"].bool_param is asks


def test_each_answer_comes_before_the_next_request_is_sent(server: RunningServer) -> None:
    waiting: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
    with grpc.insecure_channel(server.address) as channel:
        answers = stream(channel, iter(waiting.get, None))
        for number in range(3):
            waiting.put(request("identity_FP32", number))
            assert next(answers).infer_response.id == str(number)
        waiting.put(None)
        assert list(answers) == []


def test_a_client_that_goes_away_leaves_nothing_running(server: RunningServer) -> None:
    slow = Request(model_name="slow")
    for name, array in models.slow_inputs(steps=2000).items():
        datatype = "INT64" if name == "steps" else "FP32"
        slow.inputs.add(name=name, datatype=datatype, shape=array.shape)
        slow.raw_input_contents.append(array.tobytes())

    async def running() -> int:
        return next(m.statistics.pending for m in server.server.models if m.name == "slow")

    def count() -> int:
        return asyncio.run_coroutine_threadsafe(running(), server.loop).result(timeout=30)

    with grpc.insecure_channel(server.address) as channel:
        answers = stream(channel, iter([slow] * 100))
        next(answers)
        deadline_s = time.monotonic() + 30
        while count() < 20:  # read, and waiting for their turn
            assert time.monotonic() < deadline_s
        answers.cancel()
        while count():
            assert time.monotonic() < deadline_s


def test_a_stream_is_read_no_further_than_there_is_room() -> None:
    async def main() -> None:
        read: list[int] = []
        gate = asyncio.Event()

        async def requests() -> AsyncIterator[int]:
            for number in range(100):
                read.append(number)
                yield number

        async def answer(number: int) -> int:
            await gate.wait()
            return number

        answers = answered_in_order(requests(), answer, max_in_flight=4)
        first = asyncio.ensure_future(anext(answers))
        for _ in range(50):  # more turns of the loop than reading all would take
            await asyncio.sleep(0)
        assert read == [0, 1, 2, 3]
        gate.set()
        assert [await first, *[number async for number in answers]] == list(range(100))

    asyncio.run(main())


def test_a_stream_is_read_no_further_than_there_is_room_for_its_bytes() -> None:
    async def main() -> None:
        read: list[int] = []
        gate = asyncio.Event()

        async def requests() -> AsyncIterator[int]:
            for size in (1, 50, 200, 99, 1, 1):
                read.append(size)
                yield size

        async def answer(size: int) -> int:
            await gate.wait()
            return size

        async def turns() -> None:
            for _ in range(50):  # more turns of the loop than reading all would take
                await asyncio.sleep(0)

        answers = answered_in_order(
            requests(), answer, max_in_flight=10, max_bytes=100, size_of=lambda size: size
        )
        first = asyncio.ensure_future(anext(answers))
        await turns()
        assert read == [1, 50, 200]  # one that is too large alone passes alone
        gate.set()
        assert await first == 1
        assert [await anext(answers), await anext(answers)] == [50, 200]
        await turns()
        assert read == [1, 50, 200]  # its answer is not taken away as yet
        assert await anext(answers) == 99
        await turns()
        assert read == [1, 50, 200, 99, 1]
        assert [size async for size in answers] == [1, 1]

    asyncio.run(main())


def test_stopping_early_cancels_what_runs() -> None:
    async def main() -> None:
        cancelled: list[int] = []

        async def requests() -> AsyncIterator[int]:
            for number in range(10):
                yield number
            await asyncio.Event().wait()

        async def answer(number: int) -> int:
            if number == 0:
                return 0
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(number)
                raise
            return number

        answers = answered_in_order(requests(), answer, max_in_flight=3)
        assert await anext(answers) == 0
        for _ in range(10):  # turns in which the others begin
            await asyncio.sleep(0)
        await answers.aclose()
        assert sorted(cancelled) == [1, 2]

    asyncio.run(main())
