"""Counts of processes that come and go, added up."""

from hypothesis import given, settings
from hypothesis import strategies as st

from hlserve.serving.snapshot import CallCount, ModelSnapshot, Snapshot, Spread
from hlserve.serving.totals import Totals


def snapshot(pid: int, pending: int = 0, **counts: int) -> Snapshot:
    """A process that answered so many requests to models by name."""
    models = tuple(
        ModelSnapshot(
            name=name,
            version=1,
            inference_count=count,
            execution_count=count,
            pending=pending,
            success=Spread(count, 10 * count, ()),
            failures={},
            phases={},
            executed_rows=count,
            batch_rows={1: count},
        )
        for name, count in counts.items()
    )
    return Snapshot((pid,), models, (CallCount("s", "m", "OK", sum(counts.values())),))


def counts(total: Snapshot) -> dict[str, int]:
    return {model.name: model.inference_count for model in total.models}


def calls(total: Snapshot) -> int:
    return sum(call.count for call in total.calls)


def test_what_a_process_did_stays_when_it_is_gone_but_for_what_was_waiting_in_it() -> None:
    totals = Totals()
    totals.update([snapshot(1, pending=2, m=5), snapshot(2, pending=1, m=7)])
    total = totals.update([snapshot(2, pending=1, m=8)])
    assert (total.pids, counts(total), calls(total)) == ((2,), {"m": 13}, 13)
    assert total.models[0].pending == 1
    total = totals.update([snapshot(2, m=8), snapshot(3, m=1)])
    assert (total.pids, counts(total)) == ((2, 3), {"m": 14})
    assert total.models[0].batch_rows == {1: 14}
    assert total.models[0].success == Spread(14, 140, ())


def test_a_moment_without_a_process_loses_nothing() -> None:
    totals = Totals()
    totals.update([snapshot(1, m=5)])
    assert counts(totals.update([])) == {"m": 5}
    assert counts(totals.update([snapshot(2, m=1)])) == {"m": 6}


def test_a_process_that_is_late_once_counts_once() -> None:
    totals = Totals()
    totals.update([snapshot(1, m=5), snapshot(2, m=7)], {1, 2})
    total = totals.update([snapshot(2, m=8)], {1, 2})
    assert (sorted(total.pids), counts(total)) == ([1, 2], {"m": 13})
    total = totals.update([snapshot(1, m=6), snapshot(2, m=8)], {1, 2})
    assert (sorted(total.pids), counts(total)) == ([1, 2], {"m": 14})
    total = totals.update([snapshot(2, m=8)], {2})
    assert (total.pids, counts(total)) == ((2,), {"m": 14})


def test_a_version_that_was_unloaded_or_loaded_anew_begins_at_zero() -> None:
    totals = Totals()
    totals.update([snapshot(1, a=5, b=5), snapshot(2, a=1, b=1)])
    assert counts(totals.update([snapshot(2, a=1, b=1)])) == {"a": 6, "b": 6}
    assert counts(totals.update([snapshot(2, a=1)])) == {"a": 6}
    assert counts(totals.update([snapshot(2, a=0, b=0)])) == {"a": 0, "b": 0}
    assert counts(totals.update([snapshot(2, a=2, b=3)])) == {"a": 2, "b": 3}
    assert calls(totals.update([snapshot(2, a=2, b=3)])) == 15, "calls are of no version"


@settings(deadline=None)  # a machine with other work may stall
@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=3), max_size=8))
def test_no_count_falls_while_processes_come_and_go(more: list[list[int]]) -> None:
    """Each step: what the processes in each place did since; an odd number ends one afterwards."""
    totals, places, next_pid, last = Totals(), {}, 1, 0
    for step in more:
        for place, done in enumerate(step):
            pid, count = places.get(place, (next_pid, 0))
            next_pid = max(next_pid, pid + 1)
            places[place] = (pid, count + done)
        total = totals.update([snapshot(pid, m=count) for pid, count in places.values()])
        assert counts(total)["m"] == last + sum(step)
        last += sum(step)
        for place, done in enumerate(step):
            if done % 2:
                del places[place]
