"""Streams, predictions and control calls, by both clients against one real server."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hlserve.client import AsyncInferenceClient, InferenceClient, PredictResult
from hlserve.errors import DataError, InvalidRequestError, ServerError
from hlserve.serving.server import TRANSPORTS
from tests.serving.prediction_models import CLASSES, make_repository
from tests.serving.running import running_server


@pytest.fixture(scope="module", params=TRANSPORTS)
def address(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[str]:
    root = make_repository(tmp_path_factory.mktemp("models"))
    with running_server(root, transport=request.param) as running:
        yield running.address


def ask(address: str, verb: str, *arguments: Any, **more: Any) -> Any:
    with InferenceClient(address, timeout_s=20) as client:
        answer = getattr(client, verb)(*arguments, **more)
        return list(answer) if verb.endswith("_stream") else answer


def ask_async(address: str, verb: str, *arguments: Any, **more: Any) -> Any:
    async def go() -> Any:
        async with AsyncInferenceClient(address, timeout_s=20) as client:
            answer = getattr(client, verb)(*arguments, **more)
            if verb.endswith("_stream"):
                return [each async for each in answer]
            return await answer

    return asyncio.run(go())


EITHER = pytest.mark.parametrize("asking", [ask, ask_async], ids=["sync", "async"])


def test_both_clients_have_the_same_verbs() -> None:
    verbs = {name for name in vars(InferenceClient) if not name.startswith("_")}
    assert verbs == {name for name in vars(AsyncInferenceClient) if not name.startswith("_")}


@EITHER
def test_every_plain_verb_answers(address: str, asking: Any) -> None:
    for verb in ("is_server_live", "is_server_ready", "is_healthy"):
        assert asking(address, verb)
    assert asking(address, "is_model_ready", "two")
    assert asking(address, "server_metadata").name == "hlserve"
    assert asking(address, "model_metadata", "two").versions == ("1",)
    assert asking(address, "frontend", "words").max_length == 6
    assert asking(address, "frontend", "two") is None


@EITHER
def test_arrays_go_in_by_name_alone_or_as_items(address: str, asking: Any) -> None:
    x = np.ones((2, 3), np.float32)
    outputs = asking(address, "infer", "two", {"a": x, "b": x}, outputs=["sum"]).outputs
    assert {name: array.tolist() for name, array in outputs.items()} == {"sum": [[2.0] * 3] * 2}
    assert asking(address, "infer", "twice", [[1, 2]]).outputs["y"].tolist() == [[2, 4]]
    items = asking(address, "infer_items", "words", ["good food"]).outputs["probabilities"]
    (told,) = asking(address, "predict", "words", ["good food"]).predictions
    # The map is ordered by probability; a float32 in a double is exact.
    assert [told.probabilities[name] for name in CLASSES] == items[0].astype(float).tolist()


@EITHER
def test_a_stream_answers_in_order_and_goes_on_behind_an_error(address: str, asking: Any) -> None:
    def arrays(number: int) -> dict[str, Any]:
        x = np.full((1, 2), number, np.float32)
        return {"a": x, "c": x} if number == 3 else {"a": x, "b": x}

    answers = asking(address, "infer_stream", "two", map(arrays, range(20)), outputs=["sum"])
    assert len(answers) == 20
    for number, answer in enumerate(answers):
        if number == 3:
            assert isinstance(answer, ServerError)
            assert "missing ['b']" in str(answer)
        else:
            assert answer.request_id == str(number)
            assert answer.outputs["sum"].tolist() == [[2.0 * number] * 2]


@EITHER
def test_predictions_stream_too(address: str, asking: Any) -> None:
    first, error, last = asking(address, "predict_stream", "twice", [[[1, 2]], [[1]], [[3, 4]]])
    assert isinstance(first, PredictResult)
    assert first.predictions[0].values == (2, 4)
    assert (error.status, last.predictions[0].values) == ("INVALID_ARGUMENT", (6, 8))


@EITHER
def test_an_error_in_the_callers_own_requests_comes_back_to_it(address: str, asking: Any) -> None:
    with pytest.raises(InvalidRequestError, match="do not travel"):
        asking(address, "infer_stream", "two", [{"a": np.ones((1, 1), np.complex64)}])
    with pytest.raises(DataError, match="instance 0 is object"):
        asking(address, "predict_stream", "twice", [[object()]])


@EITHER
def test_a_broken_stream_says_why(asking: Any) -> None:
    with pytest.raises(ServerError, match=r"cannot connect to 127\.0\.0\.1:1") as caught:
        asking("127.0.0.1:1", "infer_stream", "two", [])
    assert caught.value.status == "UNAVAILABLE"


@EITHER
def test_every_kind_of_instance_goes_in_as_plain_values(
    address: str, asking: Any, tmp_path: Path
) -> None:
    from tests.frontend.pictures import encoded

    file = tmp_path / "picture.png"
    file.write_bytes(encoded(np.zeros((4, 4), np.uint8)))
    for model, instances in {
        "words": ["good food"],
        "images": [file, file.read_bytes()],
        "table": [{"age": 4, "pain": None}, {"age": np.float32(2), "pain": "no"}],
        "numbers": [range(16), np.zeros((1, 4, 4))],
    }.items():
        answer = asking(address, "predict", model, instances, request_id="7")
        assert len(answer.predictions) == len(instances)
        assert answer.request_id == "7"
        assert answer.total_us > 0
        for told in answer.predictions:
            assert set(told.probabilities) == set(CLASSES)
            values = list(told.probabilities.values())
            assert values == sorted(values, reverse=True)
            assert told.probabilities[told.label] == told.probability == values[0]
    (told,) = asking(address, "predict", "two", [{"a": [1], "b": [2]}]).predictions
    assert told.outputs["sum"].tolist() == [3.0]
    (told,) = asking(address, "predict", "BYTES", [b"raw"]).predictions
    assert told.outputs["y"].tolist() == [b"raw"]


@EITHER
@pytest.mark.parametrize(
    ("instances", "text"),
    [
        ("one text", "instances is one str"),
        ([object()], "instance 0 is object, expected a text, bytes, a path"),
        ([Path("/absent")], "instance 0: cannot read /absent"),
        ([{"age": object()}], "instance 0, field 'age' is <object"),
    ],
)
def test_what_is_no_instance_is_refused_before_it_is_sent(
    address: str, asking: Any, instances: Any, text: str
) -> None:
    with pytest.raises(DataError, match=text):
        asking(address, "predict", "words", instances)


@EITHER
def test_the_repository_can_be_asked(address: str, asking: Any) -> None:
    states = {each.name: each for each in asking(address, "repository_index")}
    assert (states["two"].version, states["two"].state) == ("1", "READY")
    x = np.ones((3, 1), np.float32)
    (before,) = asking(address, "model_statistics", "two")
    asking(address, "infer", "two", {"a": x, "b": x})
    (after,) = asking(address, "model_statistics", "two", "1")
    assert (after.name, after.version) == ("two", "1")
    assert after.inference_count >= before.inference_count
    assert asking(address, "model_config", "two")["name"] == "two"


@EITHER
def test_control_that_is_off_is_unavailable(address: str, asking: Any) -> None:
    for verb, more in (("load_model", {"config": {}, "files": {"1/a": b""}}), ("unload_model", {})):
        with pytest.raises(ServerError, match="explicit model load / unload") as caught:
            asking(address, verb, "two", **more)
        assert caught.value.status == "UNAVAILABLE"
