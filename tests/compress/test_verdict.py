"""What may be handed back, from measurements made up here."""

import dataclasses

import pytest

from compress.bound import Drop
from compress.candidates import Candidate
from compress.goal import Goal
from compress.latency import Latency, SpeedUp
from compress.verdict import Verdict, best, no_gain, pareto
from hlserve.errors import ConfigError

GOAL = Goal(0.01, batches=(1,))


def verdict(name, ratio, *, upper=0.005, estimate=0.0, size=1000, macs=100):
    """A candidate that takes ``ratio`` of the original's second."""
    found = Verdict(Candidate(name, b"x" * size, 1, macs=macs), 0.9, Drop(estimate, upper, 100))
    found.latency = {1: Latency((ratio,) * 15, (2 * ratio,) * 15)}
    found.speed_up = {1: SpeedUp(1 / ratio, 1 / ratio)}
    return found


WHOLE = verdict("original", 1.0)


def test_a_notable_proven_gain_goes_before_a_larger_estimate():
    found = best([verdict("proven", 0.8), verdict("estimated", 0.2, upper=0.02)], WHOLE, GOAL)
    assert found.candidate.name == "proven"
    trifle = [verdict("proven", 0.99), verdict("estimated", 0.2, upper=0.02)]
    assert best(trifle, WHOLE, GOAL).candidate.name == "estimated"


def test_what_is_minimized_decides():
    rows = [verdict("fast", 0.2, size=800, macs=60), verdict("small", 0.6, size=300, macs=80)]
    rows.append(verdict("lean", 0.7, size=900, macs=20))
    for minimize, name in (("latency", "fast"), ("bytes", "small"), ("macs", "lean")):
        goal = dataclasses.replace(GOAL, minimize=minimize)
        assert best(rows, WHOLE, goal).candidate.name == name


def test_slower_is_a_gain_for_bytes_alone():
    slow = verdict("slow", 1.25, size=100, macs=10)
    assert no_gain(slow, WHOLE, dataclasses.replace(GOAL, minimize="bytes")) == ""
    for minimize in ("latency", "macs"):
        goal = dataclasses.replace(GOAL, minimize=minimize)
        assert no_gain(slow, WHOLE, goal) == "slower than the original at batch 1: 0.800x"


def test_as_many_products_as_before_are_no_gain_in_products():
    goal = dataclasses.replace(GOAL, minimize="macs")
    assert "no fewer" in no_gain(verdict("int8", 0.5), WHOLE, goal)


def test_the_front_holds_what_nothing_beats_in_all_three():
    rows = [
        verdict("fast", 0.2, size=900),
        verdict("small", 0.6, size=300),
        verdict("beaten", 0.6, size=900),
        verdict("exact", 0.8, size=950, estimate=-0.01),
    ]
    refused = verdict("refused", 0.1, size=10)
    refused.refusal = "drops by 0.5"
    assert [v.candidate.name for v in pareto([*rows, refused])] == ["fast", "small", "exact"]


def test_a_latency_says_where_its_median_lies():
    latency = Latency(tuple(float(n) for n in range(1, 16)), (20.0,) * 15)
    assert latency.p50_s == 1.0
    assert latency.p95_s == 20.0
    low, high = latency.interval_s
    # 15 rounds: the 4th and the 12th hold the median with 96.5 %, the 5th and 11th with 88 %
    assert (low, high) == (4.0, 12.0)


@pytest.mark.parametrize(
    "change",
    [{"max_drop": -1.0}, {"max_drop": float("nan")}, {"minimize": "joy"}, {"batches": (0,)}],
)
def test_a_goal_that_nothing_can_meet_is_refused(change):
    with pytest.raises(ConfigError):
        dataclasses.replace(GOAL, **change)
