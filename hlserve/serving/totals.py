"""What all processes did together, those that are gone among them: counters that do not fall.

Only what a process told before its end is known; what it did after that is lost.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from hlserve.serving.snapshot import ModelSnapshot, Snapshot, merge

_Version = tuple[str, int]


class Totals:
    """Adds the snapshots of the processes that live to the last ones of those that are gone."""

    def __init__(self) -> None:
        self._last: dict[int, Snapshot] = {}
        self._gone = Snapshot((), (), ())

    def update(self, snapshots: Sequence[Snapshot], alive: Collection[int] = ()) -> Snapshot:
        """The sum.

        A version that was unloaded everywhere, or loaded anew, begins at zero, as it does where
        there is one process: what is gone of it is not added any more.

        Args:
            snapshots: one of each process that answered, taken after those of the last call.
            alive: ids of processes that live, answered or not: the last snapshot of one that did
                not stands in for it, since it may answer again and must not count twice.
        """
        answered = {snapshot.pids[0]: snapshot for snapshot in snapshots}
        living = {pid: last for pid, last in self._last.items() if pid in alive} | answered
        ended = [last for pid, last in self._last.items() if pid not in living]
        gone = merge([self._gone, *ended])
        if living:
            gone = self._without_ended_versions(gone, living)
        self._gone = replace(gone, pids=())
        self._last = living
        return merge([*living.values(), self._gone])

    def _without_ended_versions(self, gone: Snapshot, living: dict[int, Snapshot]) -> Snapshot:
        served = {_version(model) for snapshot in living.values() for model in snapshot.models}
        anew = {
            _version(model)
            for pid, snapshot in living.items()
            if pid in self._last
            for model in snapshot.models
            if _answered(model) < _answered(_find(self._last[pid], _version(model)))
        }
        kept = (model for model in gone.models if _version(model) in served - anew)
        return replace(gone, models=tuple(replace(model, pending=0) for model in kept))


# ----- below


def _version(model: ModelSnapshot) -> _Version:
    return model.name, model.version


def _find(snapshot: Snapshot, version: _Version) -> ModelSnapshot | None:
    return next((model for model in snapshot.models if _version(model) == version), None)


def _answered(model: ModelSnapshot | None) -> int:
    """A count that only a new record makes smaller."""
    return 0 if model is None else model.success.count + sum(model.failures.values())
