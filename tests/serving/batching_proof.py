"""Random concurrent requests, each answer compared with ONNX Runtime's for every row alone.

The rows of a model come from a pool with reference answers: each computed by a session on the very
file, one row a run (a model that does not join rows: one request a run). A request takes rows of
the pool, wants some outputs in some order, and may carry parameters, an id, a priority, a deadline
and a timeout, or be cancelled.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from hlserve.errors import (
    DeadlineExceededError,
    HlserveError,
    InferenceError,
    QueueTimeoutError,
)
from hlserve.serving.request import InferRequest, InferResponse
from tests.serving import models
from tests.serving.proof_models import POOL_ROWS, Array, Model

Infer = Callable[[InferRequest], Awaitable[InferResponse]]

MOST_ROWS = 5
PRIORITIES = 3


@dataclass(frozen=True)
class Pool:
    """Rows of one shape, and what each gives alone; None: it fails."""

    inputs: dict[str, Array]
    answers: list[dict[str, Array] | None]


@dataclass(frozen=True)
class Reference:
    """The truth about one model."""

    model: Model
    session: Any
    outputs: tuple[str, ...]
    pools: tuple[Pool, ...]

    def expected(self, request: InferRequest, indexes: list[int], pool: Pool) -> Any:
        """The outputs of a request by name; None: it has to fail."""
        if not self.model.joins:
            return _alone(self.session, self.outputs, request.inputs)
        rows = [pool.answers[index] for index in indexes]
        good = [row for row in rows if row is not None]
        if len(good) < len(rows):
            return None
        return {name: np.concatenate([row[name] for row in good]) for name in self.outputs}


def make_reference(model: Model, seed: int) -> Reference:
    rng = np.random.default_rng(seed)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.content, options, providers=["CPUExecutionProvider"]
    )
    outputs = tuple(output.name for output in session.get_outputs())
    pools = []
    for variant in range(model.variants):
        inputs = model.make(rng, variant)
        rows = [{name: a[i : i + 1] for name, a in inputs.items()} for i in range(POOL_ROWS)]
        pools.append(Pool(inputs, [_alone(session, outputs, row) for row in rows]))
    return Reference(model, session, outputs, tuple(pools))


def _alone(
    session: Any, outputs: tuple[str, ...], inputs: Mapping[str, Array]
) -> dict[str, Array] | None:
    feed = {
        name: np.vectorize(bytes.decode, otypes=[object])(a) if a.dtype.kind == "O" else a
        for name, a in inputs.items()
    }
    try:
        return dict(zip(outputs, session.run(list(outputs), feed), strict=True))
    except Exception:  # ONNX Runtime's errors have no common root
        return None


# ----- requests -----


@dataclass(frozen=True)
class Case:
    """One request and what has to come of it."""

    reference: Reference
    request: InferRequest
    indexes: list[int]
    pool: Pool
    deadline_ms: float | None = None
    cancel_after: int | None = None  # turns of the event loop


def random_case(rng: random.Random, references: list[Reference], number: int) -> Case:
    reference = rng.choice(references)
    pool = rng.choice(reference.pools)
    indexes = [rng.randrange(POOL_ROWS) for _ in range(rng.randint(1, MOST_ROWS))]
    wanted = rng.sample(reference.outputs, rng.randint(0, len(reference.outputs)))
    fate = rng.random()
    deadline_ms = None
    if fate < 0.2:
        deadline_ms = rng.choice((0.05, 0.5, 2.0, 50.0, 5000.0))
    request = InferRequest(
        model_name=reference.model.name,
        inputs={name: array[indexes] for name, array in pool.inputs.items()},
        outputs=tuple(wanted),
        request_id=rng.choice(("", f"request-{number}")),
        parameters=rng.choice(({}, {"colour": "red", "n": number})),
        priority=rng.randint(0, PRIORITIES),
        timeout_us=rng.choice((0, 0, 0, 0, 300, 10_000_000)),
    )
    return Case(
        reference,
        request,
        indexes,
        pool,
        deadline_ms=deadline_ms,
        cancel_after=rng.randint(0, 3) if fate > 0.93 else None,
    )


def difference(case: Case, answer: InferResponse) -> str | None:
    """What is wrong with an answer; None: nothing."""
    request, reference = case.request, case.reference
    if answer.request_id != request.request_id or answer.model_name != request.model_name:
        return f"is the answer to another request, {answer.request_id!r} of {answer.model_name!r}"
    names = request.outputs or reference.outputs
    if tuple(answer.outputs) != names:
        return f"has the outputs {list(answer.outputs)}, expected {names}"
    expected = reference.expected(request, case.indexes, case.pool)
    if expected is None:
        return "is an answer, expected an error"
    for name in names:
        if not _same(answer.outputs[name], expected[name], reference.model.tolerance):
            return f"output {name!r} is {answer.outputs[name]}, expected {expected[name]}"
    return None


def _same(got: Array, want: Array, tolerance: float) -> bool:
    if got.shape != want.shape:
        return False
    if got.dtype.kind == "O":
        return [_as_bytes(v) for v in got.ravel()] == [_as_bytes(v) for v in want.ravel()]
    if got.dtype != want.dtype:
        return False
    if tolerance == 0.0:
        return got.tobytes() == want.tobytes()
    bound = tolerance * max(1.0, float(np.abs(want).max(initial=0.0)))
    return bool((np.abs(got - want) <= bound).all())


def _as_bytes(value: object) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)  # type: ignore[call-overload]


# ----- the proof -----


@dataclass
class Tally:
    """What became of the requests; ``wrong`` has to stay empty."""

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def put_models(root: Path, proof: list[Model]) -> None:
    for model in proof:
        models.put(root, model.name, model.content)


async def prove(
    infer: Infer,
    references: list[Reference],
    *,
    seed: int,
    requests: int,
    at_once: int = 96,
    progress: Callable[[], None] = lambda: None,
) -> Tally:
    """Sends that many random requests, ``at_once`` at a time, and compares every answer."""
    rng = random.Random(seed)
    tally = Tally()
    cases = (random_case(rng, references, number) for number in range(requests))

    async def worker() -> None:
        for case in cases:
            for _ in range(rng.randint(0, 2)):
                await asyncio.sleep(0)
            outcome = await _outcome(infer, case)
            progress()
            kind = _judge(case, outcome, tally)
            tally.outcomes[kind] += 1

    await asyncio.gather(*(worker() for _ in range(at_once)))
    return tally


async def _outcome(infer: Infer, case: Case) -> InferResponse | BaseException:
    request = case.request
    if case.deadline_ms is not None:
        at_s = asyncio.get_running_loop().time() + case.deadline_ms / 1000
        request = replace(request, deadline_s=at_s)
    task = asyncio.ensure_future(infer(request))
    if case.cancel_after is not None:
        for _ in range(case.cancel_after):
            await asyncio.sleep(0)
        task.cancel()
    try:
        return await task
    except (HlserveError, asyncio.CancelledError) as error:
        return error


def _judge(case: Case, outcome: InferResponse | BaseException, tally: Tally) -> str:
    if isinstance(outcome, InferResponse):
        problem = difference(case, outcome)
        kind = "answered"
    else:
        problem = None if _may_fail(case, outcome) else f"failed: {outcome!r}"
        kind = type(outcome).__name__
    if problem is not None:
        tally.wrong.append(f"{case.request.model_name} rows {case.indexes}: {problem}")
    return kind


def _may_fail(case: Case, error: BaseException) -> bool:
    if isinstance(error, asyncio.CancelledError):
        return case.cancel_after is not None
    if isinstance(error, DeadlineExceededError):
        return case.deadline_ms is not None
    if isinstance(error, QueueTimeoutError):
        return case.request.timeout_us > 0
    if isinstance(error, InferenceError):
        return case.reference.expected(case.request, case.indexes, case.pool) is None
    return False
