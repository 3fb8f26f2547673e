"""A server as something to ask: connections, rows made up from metadata, statuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlserve import datatypes
from hlserve.bench.outcome import ANSWERED
from hlserve.client import (
    NO_RETRY,
    AsyncInferenceClient,
    ModelMetadata,
    TensorMetadata,
    Tls,
)
from hlserve.errors import DataError, ServerError

Array = NDArray[Any]

# Of dimensions that vary, but for the rows: enough for a sequence, little enough for a map.
_VARIABLE_SIZE = 16


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked.

    Attributes:
        address: ``host:port`` or ``unix:/path``.
        model: its name.
        version: empty: the latest.
        tls: None: in plain.
        api_key: sent with every call.
        timeout_s: of each request.
    """

    address: str
    model: str
    version: str = ""
    tls: Tls | None = None
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 60.0


class Asker:
    """Connections to a server that take turns; no request is sent twice.

    Args:
        target: what is asked.
        requests: the inputs of each request, taken in turn.
        connections: how many.

    Attributes:
        messages: the first that came with each status other than ``OK``.
    """

    def __init__(
        self, target: Target, requests: Sequence[Mapping[str, Array]], connections: int
    ) -> None:
        self._target = target
        self._requests = requests
        self._clients = [client_of(target) for _ in range(connections)]
        self._stack = AsyncExitStack()
        self.messages: dict[str, str] = {}

    async def __aenter__(self) -> Asker:
        for client in self._clients:
            await self._stack.enter_async_context(client)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def check(self) -> None:
        """Asks once on every connection; raises ServerError where that fails."""
        for client in self._clients:
            await client.infer(self._target.model, self._requests[0], self._target.version)

    async def __call__(self, number: int) -> str:
        """Asks one request and tells how it ended."""
        client = self._clients[number % len(self._clients)]
        inputs = self._requests[number % len(self._requests)]
        try:
            await client.infer(self._target.model, inputs, self._target.version)
        except ServerError as error:
            self.messages.setdefault(error.status, str(error))
            return error.status
        return ANSWERED


def client_of(target: Target) -> AsyncInferenceClient:
    """A client that tries nothing twice: a retry would hide an error and change the rate."""
    return AsyncInferenceClient(
        target.address,
        timeout_s=target.timeout_s,
        retry=NO_RETRY,
        tls=target.tls,
        api_key=target.api_key,
    )


def made_up(facts: ModelMetadata, rows: int, rng: np.random.Generator) -> dict[str, Array]:
    """Rows that fit a model: numbers around 0, integers 0 or 1, short texts."""
    return {tensor.name: _values(tensor, rows, rng) for tensor in facts.inputs}


def requests_of(arrays: Mapping[str, Array], rows: int) -> list[dict[str, Array]]:
    """The rows of a data set, so many a request; what is left over at the end is left out.

    Raises:
        DataError: there are fewer rows than a request has, or inputs of different numbers.
    """
    counts = {name: len(array) for name, array in arrays.items()}
    count = min(counts.values(), default=0)
    if len(set(counts.values())) > 1:
        raise DataError(f"the inputs have different numbers of rows: {counts}")
    if count < rows:
        raise DataError(f"the data has {count} rows, a request needs {rows}: give fewer --rows")
    return [
        {name: array[start : start + rows] for name, array in arrays.items()}
        for start in range(0, count - rows + 1, rows)
    ]


def _values(tensor: TensorMetadata, rows: int, rng: np.random.Generator) -> Array:
    open_dims = [_VARIABLE_SIZE if dim == -1 else dim for dim in tensor.shape[1:]]
    first = [rows if dim == -1 else dim for dim in tensor.shape[:1]]
    shape = (*first, *open_dims)
    dtype = datatypes.by_name(tensor.datatype).dtype
    if dtype.kind == "O":
        return np.full(shape, b"text", dtype=object)
    if dtype.kind == "V":  # BF16
        return datatypes.round_to_bf16(rng.standard_normal(shape))
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)
