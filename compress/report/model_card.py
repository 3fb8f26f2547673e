"""A model card in Markdown (Mitchell et al. 2019, Model Cards for Model Reporting, FAT*)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import Any

from compress.report import verdict, wording
from compress.report.class_section import changes_of
from compress.report.compression import CompressionReport, read_report
from compress.report.tables import settings_in_words
from hlserve.datasets.known import KNOWN

NOT_STATED = "not stated: say it here"
MOST_CLASSES = 30
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&$])")


def render_card(report: dict[str, Any]) -> str:
    """The card; the same report gives the same text.

    Raises:
        DataError: a value is not of the kind that its key holds.
    """
    return card_of(read_report(report))


def card_of(report: CompressionReport) -> str:
    """The card of a report that is read already."""
    parts = [f"# {plain(report.model)}, compressed", plain(verdict.sentence(report))]
    for title, lines in (
        ("Model", _model(report)),
        ("Intended use", _use()),
        ("Data", _data(report)),
        ("Metrics", _metrics(report)),
        ("Classes", _classes(report)),
        ("Limits", _limits(report)),
        ("Serve and reproduce", _serve(report)),
    ):
        told = list(lines)
        if told:
            parts += [f"## {title}", "\n".join(told)]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Text that Markdown takes as it is, in one line: data cannot write markup."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return _SPECIAL.sub(r"\\\1", line)


# ----- below


def _model(report: CompressionReport) -> Iterator[str]:
    best = report.chosen
    yield f"- made from: {plain(report.model)}"
    yield f"- candidate: {plain(best.name)}" + (f" ({plain(best.family)})" if best.family else "")
    if report.is_kept:
        yield "- nothing passed: this is the original, unchanged"
    if report.output:
        yield f"- output that was judged: {plain(report.output)}"
    for i, step in enumerate(best.steps, 1):
        settings = settings_in_words(step.settings)
        yield f"- step {i}: {plain(step.technique)}" + (f" ({plain(settings)})" if settings else "")
    yield "- licence of the model: " + NOT_STATED


def _use() -> Iterator[str]:
    yield f"- what it is for: {NOT_STATED}"
    yield f"- what it is not for: {NOT_STATED}"


def _data(report: CompressionReport) -> Iterator[str]:
    names = [n for n in dict.fromkeys((report.data, report.evaluation)) if n]
    for name in names or [NOT_STATED]:
        yield f"- data: {plain(name)}"
    known = next((k for k in KNOWN if k.embedded and k.name == report.data), None)
    yield "- licence: " + plain(report.licence or (known.licence if known else NOT_STATED))
    yield "- source: " + plain(report.source or (known.source if known else NOT_STATED))
    rows = report.rows
    for name, count in (
        ("trained on", rows.train),
        ("searched with", rows.search),
        ("untouched until the end", rows.test),
    ):
        if count is not None:
            yield f"- rows {name}: {wording.count(count)}"
    if report.data and PurePath(report.data).name != report.data:
        yield "- the paths are those of the machine that it was made on"


def _metrics(report: CompressionReport) -> Iterator[str]:
    before, best, metric = report.original, report.chosen, report.metric
    lines: list[tuple[str, ...]] = [
        (
            f"{metric.name}, search rows (95 %)",
            wording.score_interval(before.value, before.interval, metric),
            wording.score_interval(best.value, best.interval, metric),
        )
    ]
    test = report.test
    if test is not None:
        lines.append(
            (
                f"{metric.name}, test rows (95 %)",
                wording.score_interval(test.original, test.original_interval, metric),
                wording.score_interval(test.best, test.best_interval, metric),
            )
        )
    lines += [
        ("parameters", wording.count(before.parameters), wording.count(best.parameters)),
        ("MACs of one row", wording.count(before.macs), wording.count(best.macs)),
        (
            "MACs that run in int8",
            wording.percent(before.int8_share),
            wording.percent(best.int8_share),
        ),
        ("file, bytes", wording.count(before.size_bytes), wording.count(best.size_bytes)),
        ("packed, bytes", wording.count(before.packed_bytes), wording.count(best.packed_bytes)),
        ("memory, bytes", wording.count(before.memory_bytes), wording.count(best.memory_bytes)),
    ]
    for batch in report.timed_batches:
        was, now = before.latency_s.get(batch), best.latency_s.get(batch)
        for name in ("p50", "p95"):
            ends = [wording.duration(getattr(x, name) if x else None) for x in (was, now)]
            lines.append((f"{name}, batch {batch}", *ends))
    yield from _table(("", "original", "this model"), lines)


def _classes(report: CompressionReport) -> Iterator[str]:
    if report.classes is None:
        return
    changes = sorted(changes_of(report.classes), key=lambda c: (c.best or 0) - (c.original or 0))
    lines = [
        (
            *(c.label, wording.count(c.rows), wording.percent(c.original)),
            *(wording.percent(c.best), wording.p_value(c.p)),
        )
        for c in changes[:MOST_CLASSES]
    ]
    yield from _table(("class", "rows", "original", "this model", "p"), lines)
    if len(changes) > MOST_CLASSES:
        yield f"\nThe {MOST_CLASSES} largest falls of {len(changes)} classes."


def _limits(report: CompressionReport) -> Iterator[str]:
    metric, best, machine = report.metric, report.chosen, report.machine
    for warning in report.all_warnings:
        yield f"- **warning**: {plain(warning)}"
    if not report.is_kept:
        state = "proven" if report.is_proven else "estimated, **not proven**"
        yield f"- the drop of {plain(metric.name)} is {state}" + _bound(report)
    yield f"- judged by {plain(metric.name)} alone, on rows like those given; others may fall more"
    if report.test is None:
        yield "- no rows were left untouched for a last look"
    if best.latency_s:
        where = plain(machine.cpu or "a processor that is not stated")
        runtime = f", ONNX Runtime {plain(machine.onnxruntime)}" if machine.onnxruntime else ""
        yield f"- latency was measured on {where}{runtime}; other machines differ"
    else:
        yield "- no latency was measured"
    for note in report.notes:
        yield f"- {plain(note)}"


def _bound(report: CompressionReport) -> str:
    upper, metric = report.chosen.drop_upper, report.metric
    told = "" if upper is None else f": at most {wording.drop(upper, metric)} with 95 % confidence"
    if report.max_drop is not None:
        told += f"; allowed were {wording.drop(report.max_drop, metric)}"
    if report.smallest_provable_drop is not None:
        least = wording.drop(report.smallest_provable_drop, metric)
        told += f"; these rows can prove no drop below {least}"
    return told


def _serve(report: CompressionReport) -> Iterator[str]:
    yield "    hlserve serve MODEL_REPOSITORY"
    yield "    hlserve replay MODEL_FOLDER/VERSION/recipe.lock"
    if report.command:
        yield "\nIt was made by:\n"
        yield "    " + " ".join(report.command.split())


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(map(plain, head)) + " |"
    yield "|" + " --- |" * len(head)
    for line in lines:
        yield "| " + " | ".join(map(plain, line)) + " |"
