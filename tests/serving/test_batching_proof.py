"""The proof of batching: whatever comes at once, each answer is what its rows give alone."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc.aio
import numpy as np
import pytest

from hlserve import codec
from hlserve.errors import InferenceError
from hlserve.pb.messages import inference
from hlserve.repository import Repository
from hlserve.serving.batching import RunThreads
from hlserve.serving.batching_config import BatchingConfig
from hlserve.serving.config import ServerConfig
from hlserve.serving.dataplane import DataPlane
from hlserve.serving.request import InferRequest, InferResponse
from hlserve.serving.statistics import ModelStatistics, Phases
from hlserve.serving.store import ModelStore
from tests.serving.batching_proof import (
    PRIORITIES,
    Reference,
    Tally,
    make_reference,
    prove,
    put_models,
)
from tests.serving.proof_models import proof_models
from tests.serving.running import running_server

METHOD = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def references() -> list[Reference]:
    return [make_reference(model, seed) for seed, model in enumerate(proof_models())]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("proof")
    put_models(folder, proof_models())
    return folder


def batching(**changes: object) -> BatchingConfig:
    settings = {"max_rows": 16, "priority_levels": PRIORITIES, "default_priority_level": 2}
    return BatchingConfig(**{**settings, **changes})  # type: ignore[arg-type]


@contextmanager
def loaded_store(root: Path, config: BatchingConfig) -> Iterator[ModelStore]:
    threads = RunThreads(2)
    store = ModelStore(Repository(root), ServerConfig(models=root, batching=config), threads)
    store.load_all()
    try:
        yield store
    finally:
        threads.shutdown(wait=True)


@pytest.mark.parametrize(
    ("requests", "changes"),
    [
        (10_000, {}),
        (1_000, {"max_queue_delay_s": 0.0005, "preferred_rows": (4, 12)}),
        (1_000, {"preserve_ordering": True}),
        (1_000, {"max_rows": 1}),
    ],
)
def test_every_answer_is_what_its_rows_give_alone(
    root: Path, references: list[Reference], requests: int, changes: dict[str, object]
) -> None:
    with loaded_store(root, batching(**changes)) as store:

        async def main() -> Tally:
            infer = DataPlane(store).model_infer
            return await prove(infer, references, seed=7, requests=requests)

        tally = asyncio.run(main())
        served = {model.name: model for model in store.ready_models()}
    assert tally.wrong == []
    assert sum(tally.outcomes.values()) == requests
    assert tally.outcomes["answered"] > requests / 2
    for kind in ("CancelledError", "DeadlineExceededError", "InferenceError"):
        assert tally.outcomes[kind] > 0, tally.outcomes
    for reference in references:
        statistics = served[reference.model.name].statistics
        joined = statistics.execution_count < statistics.success.count
        assert joined == (reference.model.joins and changes.get("max_rows") != 1)
        assert statistics.pending == 0


def test_a_wrong_answer_would_be_noticed(references: list[Reference]) -> None:
    """The comparison itself: one bit, one row or one name off is found in every model."""

    async def off_by_a_little(request: InferRequest) -> InferResponse:
        reference = next(r for r in references if r.model.name == request.model_name)
        names = request.outputs or reference.outputs
        rows = len(next(iter(request.inputs.values())))
        pool = reference.pools[0].answers[1]
        assert pool is not None
        return InferResponse(
            request.model_name,
            "1",
            request.request_id,
            {name: np.concatenate([pool[name]] * rows) for name in names},
            rows,
            Phases(),
            ModelStatistics(),
        )

    tally = asyncio.run(prove(off_by_a_little, references, seed=1, requests=300))
    assert len(tally.wrong) > 0.9 * tally.outcomes["answered"]


def test_every_answer_over_the_wire_is_what_its_rows_give_alone(
    root: Path, references: list[Reference], transport: str
) -> None:
    by_name = {reference.model.name: reference for reference in references}

    async def main(address: str) -> Tally:
        async with grpc.aio.insecure_channel(address) as channel:
            call = channel.unary_unary(METHOD)

            async def infer(request: InferRequest) -> InferResponse:
                message = inference.ModelInferRequest(
                    model_name=request.model_name, id=request.request_id
                )
                for name in request.outputs:
                    message.outputs.add(name=name)
                codec.encode_inputs(message, request.inputs)
                try:
                    content = await call(message.SerializeToString())
                except grpc.aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.INTERNAL:
                        raise InferenceError(error.details()) from error
                    raise
                answer = inference.ModelInferResponse.FromString(content)
                outputs = codec.decode_tensors(
                    answer.outputs, answer.raw_output_contents, where="output"
                )
                return InferResponse(
                    answer.model_name,
                    answer.model_version,
                    answer.id,
                    outputs,
                    rows=len(next(iter(request.inputs.values()))),
                    phases=Phases(),
                    statistics=ModelStatistics(),
                )

            return await prove(infer, list(by_name.values()), seed=11, requests=600, at_once=48)

    with running_server(root, batching=batching(), transport=transport) as server:
        tally = asyncio.run(main(server.address))
    assert tally.wrong == []
    assert tally.outcomes["answered"] > 400
