"""What travels between a transport and the DataPlane: one request type, one response type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from numpy.typing import NDArray

from hlserve.serving.statistics import ModelStatistics, Phases

Array = NDArray[Any]


_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


def _nothing() -> Mapping[str, Any]:
    return _NOTHING


# Neither is frozen: both are made for every request, and a frozen one costs three times as much.
@dataclass(slots=True)
class InferRequest:
    """One inference request, decoded.

    Attributes:
        model_name: which model.
        inputs: arrays by input name; BYTES as objects of ``bytes``.
        model_version: as written by the client; empty: the latest.
        outputs: the outputs wanted, in the order wanted; empty: all, in the model's order.
        request_id: comes back unchanged.
        classifications: how many of the top classes to answer instead of values, by output name.
        parameters: the client's own; the server acts on none of them.
        deadline_s: on the event loop's clock; None: the client waits for ever.
        priority: 1 is the highest level; 0: the model's default.
        timeout_us: the longest wait in the queue, where the model's policy lets a request say;
            0: the policy's.
        signature: equal for requests to one model that are alike in all but their values: names,
            datatypes, shapes, outputs; None: not known. What passed the checks once passes again.
        arrived_ns: when it came, by ``time.monotonic_ns``; 0: it is not known.
    """

    model_name: str
    inputs: Mapping[str, Array]
    model_version: str = ""
    outputs: tuple[str, ...] = ()
    request_id: str = ""
    classifications: Mapping[str, int] = field(default_factory=_nothing)
    parameters: Mapping[str, bool | int | float | str] = field(default_factory=_nothing)
    deadline_s: float | None = None
    priority: int = 0
    timeout_us: int = 0
    signature: object | None = None
    arrived_ns: int = 0


@dataclass(slots=True)
class InferResponse:
    """One answer: the version that gave it, and its outputs in the order asked for.

    Attributes:
        rows: how many were answered; 1 where the model does not batch.
        phases: where the time went.
        statistics: the version's record, for the phase that comes after: ``encode``.
    """

    model_name: str
    model_version: str
    request_id: str
    outputs: Mapping[str, Array]
    rows: int
    phases: Phases
    statistics: ModelStatistics
