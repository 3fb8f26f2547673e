"""InferenceClient against a real server."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hlserve import datatypes
from hlserve.client import InferenceClient
from hlserve.errors import InvalidRequestError, ServerError
from hlserve.serving.server import TRANSPORTS
from hlserve.serving.session import Session
from tests.serving import models
from tests.serving.running import running_server


@pytest.fixture(scope="module", params=TRANSPORTS)
def address(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[str]:
    root: Path = tmp_path_factory.mktemp("models")
    for row in datatypes.DATATYPES:
        models.put(root, row.name, models.identity(row.name))
    models.put(root, "mlp", models.mlp(), config={"version_policy": {"all": {}}})
    models.put(root, "mlp", models.mlp(seed=1), version=2)
    models.put(root, "two", models.add_and_subtract())
    models.put(root, "slow", models.slow())
    models.put(root, "bad", b"junk")
    with running_server(root, transport=request.param) as server:
        yield server.address


@pytest.fixture
def client(address: str) -> Iterator[InferenceClient]:
    with InferenceClient(address, timeout_s=20) as inference_client:
        yield inference_client


def test_state_and_facts(client: InferenceClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_healthy()
    assert client.is_model_ready("mlp", "2")
    assert not client.is_model_ready("bad")
    assert client.server_metadata().name == "hlserve"
    facts = client.model_metadata("mlp")
    assert facts.versions == ("1", "2")
    assert facts.inputs[0].shape == (-1, 8)
    assert (facts.platform, facts.properties) == ("onnxruntime_onnx", {})


@pytest.mark.parametrize("row", datatypes.DATATYPES, ids=lambda row: row.name)
def test_every_datatype_comes_back(client: InferenceClient, row: datatypes.Datatype) -> None:
    values: Any = [[b"a", b""]] if row.name == "BYTES" else [[1, 0]]
    dtype = row.dtype
    if row.name == "BF16":
        dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    array = np.array(values, dtype=dtype)
    back = client.infer(row.name, {"x": array}).outputs["y"]
    assert (back.dtype, back.tolist()) == (array.dtype, array.tolist())


def test_text_travels_as_bytes(client: InferenceClient) -> None:
    back = client.infer("BYTES", np.array([["grüß", "gott"]])).outputs["y"]
    assert back.tolist() == [["grüß".encode(), b"gott"]]


def test_answers_equal_local_runs_of_the_version_asked_for(client: InferenceClient) -> None:
    x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    for version, seed in (("", 1), ("1", 0), ("2", 1)):
        result = client.infer("mlp", {"input": x}, version, request_id="7")
        local = Session(models.mlp(seed=seed)).run({"input": x}, ["probabilities", "logits"])
        assert list(result.outputs) == ["probabilities", "logits"]
        for name, array in local.items():
            np.testing.assert_array_equal(result.outputs[name], array)
        assert (result.model_version, result.request_id) == (version or "2", "7")


def test_a_single_array_goes_to_the_only_input_in_its_datatype(client: InferenceClient) -> None:
    as_list = client.infer("mlp", [[1, 2, 3, 4, 5, 6, 7, 8]], outputs=["logits"])
    as_array = client.infer("mlp", {"input": np.arange(1, 9, dtype=np.float32)[None]})
    np.testing.assert_array_equal(as_list.outputs["logits"], as_array.outputs["logits"])
    assert list(as_list.outputs) == ["logits"]
    assert client.infer("INT8", [[1, -1]]).outputs["y"].dtype == np.int8
    with pytest.raises(InvalidRequestError, match="input 'x' holds values outside INT8: 1 to 300"):
        client.infer("INT8", [[1, 300]])
    with pytest.raises(ServerError, match="has datatype FP64, expected INT8"):
        client.infer("INT8", [[1.5, 2.0]])
    with pytest.raises(InvalidRequestError, match=r"has the inputs \['a', 'b'\]: pass a mapping"):
        client.infer("two", [[1.0]])


def test_errors_carry_their_status(client: InferenceClient) -> None:
    for model, status in (("absent", "NOT_FOUND"), ("bad", "UNAVAILABLE")):
        with pytest.raises(ServerError) as caught:
            client.infer(model, {"x": np.zeros((1, 1), np.float32)})
        assert caught.value.status == status
    with pytest.raises(InvalidRequestError, match="parameter value"):
        client.infer("two", {}, parameters={"p": 2**70})


def test_a_deadline_ends_the_call_and_the_server_goes_on(client: InferenceClient) -> None:
    with pytest.raises(ServerError) as caught:
        client.infer("slow", models.slow_inputs(100_000), timeout_s=0.1)
    assert caught.value.status == "DEADLINE_EXCEEDED"
    assert client.infer("two", {"a": np.ones((1, 1), "f4"), "b": np.ones((1, 1), "f4")})


def test_nobody_at_home_is_unavailable() -> None:
    with (
        InferenceClient("127.0.0.1:1", timeout_s=5) as client,
        pytest.raises(ServerError) as caught,
    ):
        client.is_server_live()
    assert caught.value.status == "UNAVAILABLE"


def test_messages_larger_than_grpcios_default_go_both_ways(client: InferenceClient) -> None:
    array = np.arange(2_000_000, dtype=np.float32).reshape(2, -1)  # 8 MB, the default is 4
    np.testing.assert_array_equal(client.infer("FP32", {"x": array}).outputs["y"], array)


def test_many_threads_each_get_their_own_answer(client: InferenceClient) -> None:
    """Joined in the server: every answer must still be its own request's."""

    def ask(number: int) -> bool:
        x = np.full((1 + number % 3, 1 + number % 2), number, np.float32)
        result = client.infer("two", {"a": x, "b": x}, outputs=["sum"], request_id=str(number))
        return result.request_id == str(number) and np.array_equal(result.outputs["sum"], 2 * x)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(300)))
