"""How far down the search goes, and by when."""

import pytest

from compress.clock import Clock, parse_duration
from compress.descent import RESOLUTION, Descent
from hlserve.errors import ConfigError


def walk(limit, lowest=0.01):
    """Every share that a descent tries where those from ``limit`` on hold."""
    descent, tried = Descent(lowest=lowest), []
    while (share := descent.next()) is not None:
        tried.append(share)
        assert len(tried) < 50
        descent.tell(share, holds=share >= limit)
    return descent, tried


@pytest.mark.parametrize("limit", [0.9, 0.6, 0.5, 0.31, 0.07, 0.02])
def test_a_descent_ends_close_above_the_limit(limit):
    descent, tried = walk(limit)
    assert descent.held >= limit
    assert descent.held / limit <= RESOLUTION
    assert len(tried) == len(set(tried)) <= 10


def test_where_everything_holds_it_goes_down_to_the_lowest_share():
    descent, tried = walk(0.0, lowest=0.1)
    assert tried == [0.5, 0.25, 0.125]
    assert descent.broke is None


def test_where_nothing_holds_it_gives_up_near_the_original():
    descent, tried = walk(2.0)
    assert descent.held == 1.0
    assert tried == sorted(tried)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), (" 2M ", 120)]
)
def test_durations_are_read_as_they_are_written(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-1s", "0", "0s", "10 minutes", "1e3", "nan", "٣s"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ConfigError, match=r"write seconds, or 90s, 10m, 1\.5h"):
        parse_duration(text)


def test_a_clock_counts_down_to_zero_and_no_further():
    clock = Clock(5.0)
    assert 0 < clock.left_s <= 5
    assert Clock(5.0, started=clock.started - 100).left_s == 0
    assert Clock().left_s == float("inf")
    with pytest.raises(ConfigError, match="budget"):
        Clock(-1.0)
