"""Pictures of a measurement: latency over time and its distribution, or latency over throughput."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hlserve.bench.outcome import Outcome
from hlserve.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".svg", ".png", ".pdf")

# Okabe and Ito (2008): colour-blind readers can tell them apart.
_BLUE, _ORANGE, _GREEN, _PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
_PERCENTILES = ((50.0, _BLUE, "o-"), (90.0, _GREEN, "s-"), (99.0, _ORANGE, "^-"))
_STYLE: Any = {  # matplotlib names each key in its type
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "font.size": 9,
    "grid.alpha": 0.35,
    "legend.frameon": False,
}


def require_drawable(path: Path) -> None:
    """Finds out, before anything is measured, whether the picture can be drawn.

    Raises:
        ConfigError: the file's ending is none of ``SUFFIXES``.
        MissingDependencyError: matplotlib is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--plot {path}: expected a file ending in {', '.join(SUFFIXES)}")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            'a plot needs matplotlib; type: pip install "hlserve[report]"'
        ) from error


def draw(outcomes: Sequence[Outcome], path: Path, *, title: str) -> None:
    """Writes the picture: of several rates a sweep, else of the one run.

    Raises:
        ConfigError: the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        if len(outcomes) > 1:
            _latency_over_throughput(left, outcomes)
            _answered_over_offered(right, outcomes)
        else:
            _latency_over_time(left, outcomes[0])
            _distribution(right, outcomes[0])
        figure.suptitle(title, x=0.01, horizontalalignment="left")
        try:
            figure.savefig(path, dpi=150)
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from error


# ----- one run


def _latency_over_time(axes: Axes, outcome: Outcome) -> None:
    answered = outcome.answered
    at_s, latency_ms = outcome.at_s, 1e3 * outcome.latency_s
    axes.plot(at_s[answered], latency_ms[answered], ".", color=_BLUE, markersize=2, alpha=0.5)
    if not answered.all():
        axes.plot(at_s[~answered], latency_ms[~answered], "x", color=_ORANGE, label="error")
        axes.legend()
    if len(at_s):
        axes.set_yscale("log")
    meant = "sent" if outcome.offered_rate is None else "meant to be sent"
    axes.set_xlabel(f"when it was {meant} (s)")
    axes.set_ylabel("latency (ms)")
    axes.set_title("Every request")


def _distribution(axes: Axes, outcome: Outcome) -> None:
    latency_ms = np.sort(1e3 * outcome.latency_s[outcome.answered])
    if len(latency_ms):
        share = 100 * np.arange(1, len(latency_ms) + 1) / len(latency_ms)
        axes.step(latency_ms, share, where="post", color=_BLUE)
        axes.set_xscale("log")
        for percent, colour, _ in _PERCENTILES:
            value = 1e3 * outcome.percentile_s(percent)
            axes.axvline(value, color=colour, linestyle="--", linewidth=1)
            axes.plot([], [], "--", color=colour, label=f"p{percent:g} {value:.3g} ms")
        axes.legend(loc="upper left")
    axes.set_xlabel("latency (ms)")
    axes.set_ylabel("answered within (%)")
    axes.set_title("Distribution")


# ----- a sweep


def _latency_over_throughput(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    throughput = [outcome.per_second for outcome in outcomes]
    for percent, colour, marks in _PERCENTILES:
        latency_ms = [1e3 * outcome.percentile_s(percent) for outcome in outcomes]
        axes.plot(throughput, latency_ms, marks, color=colour, label=f"p{percent:g}")
    axes.set_yscale("log")
    axes.set_xlabel("answered (requests/s)")
    axes.set_ylabel("latency (ms)")
    axes.set_title("Latency against throughput")
    axes.legend()


def _answered_over_offered(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    offered = [outcome.offered_rate or 0.0 for outcome in outcomes]
    axes.plot(offered, offered, "--", color="grey", linewidth=1, label="all answered")
    axes.plot(offered, [o.per_second for o in outcomes], "o-", color=_BLUE, label="answered")
    axes.set_xlabel("offered (requests/s)")
    axes.set_ylabel("answered (requests/s)")
    axes.set_title("Answered against offered")
    axes.legend()
