"""The Prediction service: things in, labels and numbers out, each equal to what the model says."""

import re
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from hlserve.datatypes import by_name as find_datatype
from hlserve.errors import InvalidRequestError
from hlserve.pb.messages import message_class, prediction
from hlserve.repository import MODEL_FILE
from hlserve.rpcs import PREDICTION_SERVICE, find
from hlserve.serving import instances
from hlserve.serving.limits import LimitsConfig
from hlserve.serving.session import Session, TensorInfo
from tests.frontend.pictures import encoded
from tests.frontend.sounds import tone, wav
from tests.serving import models
from tests.serving.prediction_models import (
    CLASSES,
    COLUMNS,
    PIXELS,
    SOUNDS,
    WORDS,
    make_repository,
)
from tests.serving.running import running_server

Request = prediction.PredictRequest
Instance = prediction.Instance
Numbers = prediction.Numbers


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_repository(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def channel(root: Any, transport: str) -> Iterator[grpc.Channel]:
    with (
        running_server(root, transport=transport) as running,
        grpc.insecure_channel(running.address) as opened,
    ):
        yield opened


@pytest.fixture(scope="module")
def bounded(root: Any) -> Iterator[grpc.Channel]:
    models.put(root, "few", models.mlp(), config={"max_batch_size": 4})
    limits = LimitsConfig(max_tensor_elements=100)
    with (
        running_server(root, limits=limits) as running,
        grpc.insecure_channel(running.address) as opened,
    ):
        yield opened


def predict(channel: grpc.Channel, request: Request) -> prediction.PredictResponse:
    rpc = find("Predict", PREDICTION_SERVICE)
    call = channel.unary_unary(
        rpc.path,
        request_serializer=message_class(rpc.request).SerializeToString,
        response_deserializer=prediction.PredictResponse.FromString,
    )
    return call(request, timeout=20)


def numbers(*values: float, shape: tuple[int, ...] = ()) -> Instance:
    return Instance(numbers=Numbers(values=values, shape=shape))


def fields(**cells: Any) -> Instance:
    instance = Instance()
    instance.fields.update(cells)
    return instance


def inputs(**arrays: list[float]) -> Instance:
    return Instance(
        inputs=prediction.Inputs(by_name={n: Numbers(values=v) for n, v in arrays.items()})
    )


PICTURES = np.random.default_rng(0).integers(0, 256, (2, 4, 4), dtype=np.uint8)
FILES = [encoded(picture) for picture in PICTURES]
TONES = [wav(tone(hertz)) for hertz in (300, 900)]
TEXTS = ["Good food!", "bad, bad food"]
ROWS = [{"age": 4.0, "pain": "yes"}, {"age": None, "pain": "no"}]

# model -> instances, and the arrays that the model gets.
CLASSIFIED: dict[str, tuple[list[Instance], Any]] = {
    "numbers": ([numbers(*p.ravel()) for p in PICTURES], PICTURES[:, None].astype(np.float32)),
    "images": (
        [Instance(blob=file) for file in FILES],
        PIXELS.apply(FILES)["input"].astype(np.float32),
    ),
    "sounds": ([Instance(blob=file) for file in TONES], SOUNDS.apply(TONES)["input"]),
    "words": ([Instance(text=text) for text in TEXTS], WORDS.apply(TEXTS)["input"]),
    "table": ([fields(**row) for row in ROWS], COLUMNS.apply(ROWS)["input"]),
}


@pytest.mark.parametrize("model", CLASSIFIED)
def test_every_kind_of_instance_is_answered_by_label(
    channel: grpc.Channel, root: Any, model: str
) -> None:
    instances, array = CLASSIFIED[model]
    answer = predict(channel, Request(model=model, id="7", instances=instances))
    local = Session((root / model / "1" / MODEL_FILE).read_bytes())
    expected = local.run({"input": array}, ["probabilities"])["probabilities"]
    assert (answer.model, answer.version, answer.id) == (model, "1", "7")
    assert len(answer.predictions) == len(instances)
    for told, row in zip(answer.predictions, expected, strict=True):
        by_label = dict(zip(CLASSES, row.astype(float).tolist(), strict=True))
        assert dict(told.probabilities) == by_label  # float32 in a double: exact
        assert told.label == max(by_label, key=by_label.__getitem__)
        assert told.probability == by_label[told.label]
    assert answer.timing.total_us > 0


def test_a_regression_gives_values(channel: grpc.Channel) -> None:
    answer = predict(channel, Request(model="twice", instances=[numbers(1, 2), numbers(-3, 0.5)]))
    assert [list(each.values) for each in answer.predictions] == [[2, 4], [-6, 1]]
    assert not any(each.label or each.probabilities for each in answer.predictions)


def test_a_multilabel_model_gives_every_label_that_is_likely(channel: grpc.Channel) -> None:
    (told,) = predict(channel, Request(model="tags", instances=[numbers(5, -5)])).predictions
    assert list(told.labels) == [name for name in CLASSES if told.probabilities[name] >= 0.5]
    assert 0 < len(told.labels) < 3
    assert not told.label


def test_classes_without_names_are_called_by_index(channel: grpc.Channel) -> None:
    (told,) = predict(channel, Request(model="unnamed", instances=[numbers(1, 0)])).predictions
    assert sorted(told.probabilities) == ["0", "1", "2"]
    assert told.label in told.probabilities


def test_a_model_that_says_nothing_of_itself_gives_its_outputs(channel: grpc.Channel) -> None:
    row = [0.5] * 8
    (told,) = predict(channel, Request(model="plain", instances=[numbers(*row)])).predictions
    local = Session(models.mlp()).run({"input": np.array([row], np.float32)}, ["logits"])
    assert list(told.outputs["logits"].numbers) == local["logits"][0].astype(float).tolist()
    assert list(told.outputs["logits"].shape) == [3]
    assert sorted(told.outputs) == ["logits", "probabilities"]


def test_several_inputs_go_by_name(channel: grpc.Channel) -> None:
    asked = [inputs(a=[1, 2], b=[3, 4]), inputs(a=[0, 0], b=[1, 1])]
    answer = predict(channel, Request(model="two", instances=asked))
    assert [list(each.outputs["sum"].numbers) for each in answer.predictions] == [[4, 6], [1, 1]]


@pytest.mark.parametrize("model", ["one", "open"])
def test_a_model_that_joins_no_rows_is_asked_one_by_one(channel: grpc.Channel, model: str) -> None:
    asked = [numbers(1, 2, 3, 4), numbers(5, 6, 7, 8)]
    answer = predict(channel, Request(model=model, instances=asked))
    sign = -1 if model == "one" else 1
    for told, instance in zip(answer.predictions, asked, strict=True):
        assert list(told.outputs["y"].numbers) == [sign * v for v in instance.numbers.values]


@pytest.mark.parametrize(
    ("model", "given"), [("INT8", [-128, 127]), ("INT64", [2**53, -1]), ("BOOL", [0, 1])]
)
def test_whole_numbers_arrive_as_they_are(
    channel: grpc.Channel, model: str, given: list[int]
) -> None:
    (told,) = predict(channel, Request(model=model, instances=[numbers(*given)])).predictions
    assert list(told.outputs["y"].numbers) == given


def test_texts_and_bytes_reach_a_model_that_takes_bytes(channel: grpc.Channel) -> None:
    (told,) = predict(
        channel, Request(model="BYTES", instances=[Instance(text="žluť")])
    ).predictions
    assert list(told.outputs["y"].texts) == ["žluť".encode()]
    (told,) = predict(channel, Request(model="BYTES", instances=[Instance(blob=b"a")])).predictions
    assert list(told.outputs["y"].texts) == [b"a"]


NAN = float("nan")
# Request -> what the message must say.
REFUSED: dict[str, tuple[Request, str]] = {
    "no instances": (Request(model="plain"), "no instances, expected at least one"),
    "an empty instance": (
        Request(model="plain", instances=[numbers(*range(8)), Instance()]),
        "instance 1 holds nothing, expected one of numbers",
    ),
    "mixed kinds": (
        Request(model="plain", instances=[numbers(*range(8)), Instance(text="a")]),
        "instance 1 is text, instance 0 numbers: expected one kind",
    ),
    "too few numbers": (
        Request(model="numbers", instances=[numbers(*range(16)), numbers(1, 2)]),
        "instance 1, input 'input': 2 numbers, expected 16 for the shape [1, 4, 4]",
    ),
    "a shape of another model": (
        Request(model="numbers", instances=[numbers(*range(16), shape=(4, 4))]),
        "instance 0, input 'input': shape [4, 4], expected [1, 4, 4]",
    ),
    "a shape that the numbers do not fill": (
        Request(model="open", instances=[numbers(1, 2, shape=(2, 2))]),
        "2 numbers, expected 4 for the shape [2, 2]",
    ),
    "more dimensions than an array has": (
        Request(model="open", instances=[numbers(1, shape=(1,) * 64)]),
        "instance 0, input 'x': shape of 64 dimensions, expected at most 63",
    ),
    "a million dimensions": (
        Request(model="open", instances=[numbers(1, shape=(2**62,) * 1_000_000)]),
        "shape of 1000000 dimensions, expected at most 63",
    ),
    "more instances than are taken": (
        Request(model="twice", instances=[numbers(1, 2)] * 4097),
        "4097 instances came, expected at most 4096",
    ),
    "more fields than are taken": (
        Request(model="table", instances=[fields(**{str(n): n for n in range(10_001)})]),
        "10001 fields of instance 0 came, expected at most 10000",
    ),
    "an odd number for an open dimension": (
        Request(model="open", instances=[numbers(1, 2, 3)]),
        "3 numbers, expected a multiple of 2 for the shape [-1, 2]",
    ),
    "shapes that differ": (
        Request(model="open", instances=[numbers(1, 2), numbers(1, 2, 3, 4)]),
        "instance 1, input 'x': shape [2, 2], instance 0 has [1, 2]",
    ),
    "NaN": (
        Request(model="twice", instances=[numbers(1, 1), numbers(1, NAN)]),
        "instance 1, input 'input': number 1 is nan, expected finite",
    ),
    "infinity": (Request(model="twice", instances=[numbers(1, float("inf"))]), "is inf, expected"),
    "more than float32 holds": (
        Request(model="twice", instances=[numbers(1e300, 0)]),
        "number 0 is 1e+300, expected a value of FP32",
    ),
    "more than float16 holds": (Request(model="FP16", instances=[numbers(1e5)]), "of FP16"),
    "a fraction for integers": (Request(model="INT64", instances=[numbers(0.5)]), "of INT64"),
    "out of range": (Request(model="INT8", instances=[numbers(300)]), "number 0 is 300"),
    "two for a yes or no": (Request(model="BOOL", instances=[numbers(2)]), "of BOOL"),
    "numbers for texts": (
        Request(model="BYTES", instances=[numbers(1)]),
        "takes texts, got numbers",
    ),
    "numbers for two inputs": (
        Request(model="two", instances=[numbers(1, 2)]),
        "instance 0 is numbers, but the model has the inputs ['a', 'b']",
    ),
    "inputs of other names": (
        Request(model="two", instances=[inputs(a=[1], c=[1])]),
        "instance 0 has the inputs ['a', 'c'], expected ['a', 'b']: missing 'b', unknown 'c'",
    ),
    "a text for numbers": (
        Request(model="plain", instances=[Instance(text="a")]),
        "instance 0 is text, but the model has no front end and takes 'input' FP32",
    ),
    "fields for numbers": (
        Request(model="plain", instances=[fields(age=1)]),
        "instance 0 is fields, but the model has no table",
    ),
    "a text for images, which could be a path": (
        Request(model="images", instances=[Instance(text="/etc/hostname")]),
        "instance 0 is text, expected blob: the model takes image",
    ),
    "a text for sounds, which could be a path": (
        Request(model="sounds", instances=[Instance(text="/etc/hostname")]),
        "instance 0 is text, expected blob: the model takes sound",
    ),
    "no image": (
        Request(model="images", instances=[Instance(blob=FILES[0]), Instance(blob=b"<html>")]),
        "instance 1 is no PNG",
    ),
    "no sound": (Request(model="sounds", instances=[Instance(blob=b"<html>")]), "instance 0"),
    "an empty text": (
        Request(model="words", instances=[Instance(text="good"), Instance(text=" ")]),
        "instance 1 is an empty text",
    ),
    "an unknown field": (
        Request(model="table", instances=[fields(age=1, pain="no", size=3)]),
        "instance 0 has the unknown field 'size', expected 'age', 'pain'",
    ),
    "a missing field": (
        Request(model="table", instances=[fields(age=1, pain="no"), fields(age=1)]),
        "instance 1 has no column 'pain'",
    ),
    "a text in a column of numbers": (
        Request(model="table", instances=[fields(age="old", pain="no")]),
        "instance 0, column 'age': 'old' is not a number",
    ),
    "a list in a field": (
        Request(model="table", instances=[fields(age=[1, 2], pain="no")]),
        "instance 0, field 'age' is a list, expected a number",
    ),
    "NaN in a field": (
        Request(model="table", instances=[fields(age=NAN, pain="no")]),
        "instance 0, field 'age' is nan, expected a finite number, or null",
    ),
    "no version": (Request(model="plain", version="one"), "version is 'one'"),
}


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        # 8 pictures of 4 x 4, said before they are read: the last is none.
        (
            Request(model="images", instances=[Instance(blob=FILES[0])] * 7 + [Instance(blob=b"")]),
            "hold 128 elements of input 'input', expected at most 100: send fewer at once",
        ),
        (
            Request(model="open", instances=[numbers(*range(102))]),
            "hold 102 elements of input 'x', expected at most 100",
        ),
        (
            Request(model="few", instances=[numbers(*range(8))] * 5),
            "model 'few' version 1: 5 instances came, expected at most 4",
        ),
    ],
    ids=["pictures", "numbers", "rows"],
)
def test_what_is_made_of_instances_is_bounded(
    bounded: grpc.Channel, request_: Request, words: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        predict(bounded, request_)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert words in (caught.value.details() or "")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1,) * 64, "instance 0, input 'x': shape of 64 dimensions, expected at most 63"),
        ((0, 2**62), "shape [0, 4611686018427387904] holds too many numbers"),
    ],
)
def test_any_shape_for_a_rank_that_is_not_stated_is_an_array_or_refused(
    shape: tuple[int, ...], words: str
) -> None:
    tensor = TensorInfo("x", find_datatype("FP32"), (), ())
    most = instances.Numbers(np.zeros(1), (1,) * 63)
    assert instances.numeric_inputs([most], [tensor])["x"].shape == (1,) * 64
    with pytest.raises(InvalidRequestError, match=re.escape(words)):
        instances.numeric_inputs([instances.Numbers(np.zeros(0), shape)], [tensor])


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_in_words(channel: grpc.Channel, name: str) -> None:
    request, text = REFUSED[name]
    with pytest.raises(grpc.RpcError) as caught:
        predict(channel, request)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert text in (caught.value.details() or "")
    assert f"model {request.model!r}" in (caught.value.details() or "")


@pytest.mark.parametrize("name", REFUSED)
def test_a_stream_answers_an_error_and_goes_on(channel: grpc.Channel, name: str) -> None:
    request, text = REFUSED[name]
    good = Request(model="twice", id="good", instances=[numbers(1, 2)])
    bad = Request()
    bad.CopyFrom(request)
    bad.id = "bad"
    first, second, third = stream(channel, [good, bad, good])
    for answer in (first, third):
        assert answer.response.id == "good"
        assert list(answer.response.predictions[0].values) == [2, 4]
    assert (second.error.id, second.error.status) == ("bad", "INVALID_ARGUMENT")
    assert text in second.error.message


def stream(channel: grpc.Channel, requests: list[Request]) -> list[Any]:
    rpc = find("PredictStream", PREDICTION_SERVICE)
    call = channel.stream_stream(
        rpc.path,
        request_serializer=message_class(rpc.request).SerializeToString,
        response_deserializer=prediction.PredictStreamResponse.FromString,
    )
    return list(call(iter(requests), timeout=20))


def test_an_unknown_model_is_not_found_in_a_stream_too(channel: grpc.Channel) -> None:
    (answer,) = stream(channel, [Request(model="absent", instances=[numbers(1)])])
    assert answer.error.status == "NOT_FOUND"
    with pytest.raises(grpc.RpcError) as caught:
        predict(channel, Request(model="absent", instances=[numbers(1)]))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
