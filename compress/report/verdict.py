"""What came out, in a sentence and a few ratios: the page, the card and the terminal say it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compress.report import wording
from compress.report.compression import CompressionReport, Row

Kind = Literal["proven", "estimated", "kept"]


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times smaller or faster: ``value`` in words, ``detail`` from what to what."""

    name: str
    value: str
    detail: str


def kind(report: CompressionReport) -> Kind:
    """Whether the bound is proven, only estimated, or the original was kept."""
    if report.is_kept:
        return "kept"
    return "proven" if report.is_proven else "estimated"


def title(report: CompressionReport) -> str:
    """The verdict's few words."""
    told = {
        "proven": "Compressed, and the bound is proven",
        "estimated": "Compressed; the bound is estimated, not proven",
        "kept": "The original is kept",
    }
    return told[kind(report)]


def sentence(report: CompressionReport) -> str:
    """The verdict in one sentence."""
    if report.is_kept:
        return _kept(report)
    best, metric = report.chosen, report.metric
    gains = [_faster(best, batch) for batch in report.timed_batches[:1]]
    gains.append(_smaller(wording.quotient(report.original.size_bytes, best.size_bytes)))
    gained = " and ".join(gain for gain in gains if gain) or "takes the original's place"
    told = f"{best.name} {gained}; {metric.name} {_moved(best.drop, report)}"
    if best.drop_upper is not None:
        told += f", at most {wording.drop(best.drop_upper, metric)} with 95 % confidence"
    if report.max_drop is not None:
        told += f" (allowed: {wording.drop(report.max_drop, metric)}"
        told += ", proven)" if report.is_proven else ", estimated, not proven)"
    return told + "."


def nearest_miss(report: CompressionReport) -> Row | None:
    """The refused candidate that lost least; None where none has a measured drop."""
    missed = [r for r in report.tried if r.refusal and r.drop is not None]
    return min(missed, key=lambda r: r.drop if r.drop is not None else 0.0, default=None)


def ratios(report: CompressionReport) -> list[Ratio]:
    """The headline: speed at each batch, the three sizes, multiply-accumulates."""
    before, best = report.original, report.chosen
    found = []
    for batch in report.timed_batches:
        gain = best.speed_up.get(batch)
        if gain is not None and gain.ratio is not None:
            detail = f"{_median(before, batch)} → {_median(best, batch)}"
            if gain.lower:
                least = wording.gain(gain.lower, "faster", "slower")
                detail += f"; {'at least' if gain.lower >= 1 else 'at most'} {least}"
            found.append(
                _ratio(gain.ratio, (f"faster, batch {batch}", f"slower, batch {batch}"), detail)
            )
    for names, was_bytes, now_bytes in (
        (("smaller file", "larger file"), before.size_bytes, best.size_bytes),
        (("smaller packed", "larger packed"), before.packed_bytes, best.packed_bytes),
        (("less memory", "more memory"), before.memory_bytes, best.memory_bytes),
    ):
        value = wording.quotient(was_bytes, now_bytes)
        if value is not None:
            detail = f"{wording.size(was_bytes)} → {wording.size(now_bytes)}"
            found.append(_ratio(value, names, detail))
    value = wording.quotient(before.macs, best.macs)
    if value is not None:
        detail = f"{wording.count(before.macs)} → {wording.count(best.macs)}"
        found.append(_ratio(value, ("fewer MACs", "more MACs"), detail))
    return found


def short_form(report: CompressionReport) -> list[str]:
    """The lines that a command prints."""
    lines = [f"verdict      {title(report)}", f"             {sentence(report)}"]
    if not report.is_kept:
        for r in ratios(report):
            lines.append(f"{r.value:>12} {r.name} ({r.detail})")
    if report.test is not None:
        lines.append(f"test rows    {last_look(report)}")
    return lines + [f"warning      {warning}" for warning in report.all_warnings]


def last_look(report: CompressionReport) -> str:
    """What the untouched rows say."""
    test, metric = report.test, report.metric
    if test is None:
        return "none were left for a last look; say --eval to give some"
    told = f"{metric.name} {wording.score(test.original, metric)}"
    told += f" → {wording.score(test.best, metric)} on {wording.count(test.rows)} untouched rows"
    if test.drop_upper is not None:
        told += f", a drop of at most {wording.drop(test.drop_upper, metric)}"
    return told


# ----- below


def _kept(report: CompressionReport) -> str:
    tried = len(report.tried)
    told = f"None of {tried:,} candidates passed" if tried else "No candidate was tried"
    miss = nearest_miss(report)
    if miss is None:
        return told + "."
    lost = wording.drop(miss.drop, report.metric)
    return f"{told}; nearest: {miss.name}, a drop of {lost}, refused: {miss.refusal}."


def _faster(best: Row, batch: str) -> str:
    gain = best.speed_up.get(batch)
    told = wording.gain(gain.ratio if gain else None, "faster", "slower")
    return f"answers {told} (batch {batch})" if told else ""


def _ratio(value: float, names: tuple[str, str], detail: str) -> Ratio:
    """Under the first name where it is a gain, turned over and under the second where not."""
    if 0 < value < 1:
        return Ratio(names[1], wording.ratio(1 / value), detail)
    return Ratio(names[0], wording.ratio(value), detail)


def _median(row: Row, batch: str) -> str:
    latency = row.latency_s.get(batch)
    return wording.duration(latency.p50 if latency else None)


def _smaller(value: float | None) -> str:
    told = wording.gain(value, "smaller", "larger")
    return f"its file is {told}" if told else ""


def _moved(drop: float | None, report: CompressionReport) -> str:
    metric = report.metric
    if drop is None:
        return "was not compared"
    if drop == 0:
        return "stays as it was"
    # A drop is how much worse: an error rises where a share falls.
    word = "falls" if (drop > 0) == metric.higher_is_better else "rises"
    return f"{word} by {wording.drop(abs(drop), metric)}"
