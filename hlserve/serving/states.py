"""What is known of one model at one moment, and how the repository index tells it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from hlserve.serving.loading import Loaded
from hlserve.serving.model import ServedModel

State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]


@dataclass(frozen=True, slots=True)
class ModelState:
    """A row of the repository index.

    Attributes:
        name: the model.
        version: its number as text; empty where no version is known.
        state: Triton's word.
        reason: why it is not ready, or, of one that is, why the last reload failed; else empty.
    """

    name: str
    version: str
    state: State
    reason: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One model's state; replaced whole, so that a reader in another thread sees one moment.

    Attributes:
        versions: what answers, by number.
        failures: why a version does not, by number.
        reason: why the model as a whole has nothing.
        is_loading: whether it will answer for the first time, if all goes well.
        reload_failure: why the last reload left everything as it was; empty: it did not fail.
        unloading: versions that take no request and have some in flight.
    """

    versions: Mapping[int, ServedModel] = field(default_factory=dict)
    failures: Mapping[int, str] = field(default_factory=dict)
    reason: str = "it is not loaded"
    is_loading: bool = False
    reload_failure: str = ""
    unloading: tuple[int, ...] = ()

    @classmethod
    def loading(cls, before: Entry | None = None) -> Entry:
        """Of a model that is on its way; what it unloads goes on."""
        return cls(
            reason="it is loading", is_loading=True, unloading=before.unloading if before else ()
        )

    @classmethod
    def of(cls, loaded: Loaded) -> Entry:
        """What came of a load."""
        return cls(versions=loaded.versions, failures=loaded.failures, reason=loaded.reason)

    def why_not_ready(self) -> str:
        """One line for the client."""
        if self.reason:
            return self.reason
        return "; ".join(f"version {number}: {text}" for number, text in self.failures.items())


def states_of(name: str, entry: Entry) -> Iterator[ModelState]:
    """The rows of one model: its versions ascending, or one without a version."""
    rows: dict[int, ModelState] = {}
    for number in entry.unloading:
        rows[number] = ModelState(name, str(number), "UNLOADING", entry.reason)
    for number, reason in entry.failures.items():
        rows[number] = ModelState(name, str(number), "UNAVAILABLE", reason)
    for number in entry.versions:
        reason = f"reload failed: {entry.reload_failure}" if entry.reload_failure else ""
        rows[number] = ModelState(name, str(number), "READY", reason)
    if rows:
        yield from (rows[number] for number in sorted(rows))
    if not rows or entry.is_loading:
        yield ModelState(name, "", "LOADING" if entry.is_loading else "UNAVAILABLE", entry.reason)
