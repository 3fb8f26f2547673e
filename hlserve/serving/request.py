"""What travels between a transport and the DataPlane: one request type, one response type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One inference request, decoded.

    Attributes:
        model_name: which model.
        inputs: arrays by input name; BYTES as objects of ``bytes``.
        model_version: as written by the client; empty: the latest.
        outputs: the outputs wanted, in the order wanted; empty: all, in the model's order.
        request_id: comes back unchanged.
        parameters: the client's own; the server acts on none of them yet.
        deadline_s: on the event loop's clock; None: the client waits for ever.
        signature: equal for requests to one model that are alike in all but their values: names,
            datatypes, shapes, outputs; None: not known. What passed the checks once passes again.
    """

    model_name: str
    inputs: Mapping[str, Array]
    model_version: str = ""
    outputs: tuple[str, ...] = ()
    request_id: str = ""
    parameters: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    deadline_s: float | None = None
    signature: object | None = None


@dataclass(frozen=True, slots=True)
class InferResponse:
    """One answer: the version that gave it, and its outputs in the order asked for."""

    model_name: str
    model_version: str
    request_id: str
    outputs: Mapping[str, Array]
