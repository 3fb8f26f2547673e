"""The sections of a compression report, in the order of the page."""

from __future__ import annotations

from collections.abc import Iterator

from compress.report import plots, verdict, wording
from compress.report.class_section import class_section
from compress.report.compression import CompressionReport, Row
from compress.report.layer_sections import calibration_section, layer_section, sensitivity_section
from compress.report.steps import STEPS_HEAD, step_lines
from compress.report.tables import figure, look, pairs, settings_in_words, without_empty_columns
from hlserve.report.markup import Markup, bullets, element, table
from hlserve.report.wording import number

MOST_ROWS = 20  # of candidates before the others are folded
NO_PLOTS = 'Plots need matplotlib; type: pip install "hlserve[report]". The tables are complete.'


def sections(
    report: CompressionReport, *, with_plots: bool = True
) -> Iterator[tuple[str, str, Markup]]:
    """(anchor, title, content) of every section that applies."""
    yield "verdict", "Verdict", _verdict(report, with_plots)
    yield "pareto", "What can be had", _pareto(report, with_plots)
    yield "comparison", "Original against chosen", _comparison(report)
    if report.chosen.steps:
        yield "steps", "What each step gained", _steps(report, with_plots)
    if report.tried:
        yield "tried", "Every candidate", _tried(report)
    if report.layers:
        yield "layers", "What was done to each layer", layer_section(report)
    if report.sensitivity.pruning or report.sensitivity.quantization:
        yield "sensitivity", "Sensitivity", sensitivity_section(report, with_plots)
    if report.calibration:
        yield "calibration", "Calibration", calibration_section(report, with_plots)
    if report.classes is not None:
        yield "classes", "Classes", class_section(report.classes, with_plots)
    yield "judged", "How it was judged", _judged(report)
    yield "reproduce", "How to reproduce it", _reproduce(report)


def _verdict(report: CompressionReport, with_plots: bool) -> Markup:
    box = element(
        "div",
        element("b", verdict.title(report)),
        element("p", verdict.sentence(report)),
        cls=f"verdict {verdict.kind(report)}",
    )
    cards = [
        element(
            "div",
            element("span", r.value, cls="value"),
            r.name,
            element("div", r.detail),
            cls="card",
        )
        for r in ([] if report.is_kept else verdict.ratios(report))
    ]
    parts = [box, element("div", *cards, cls="cards") if cards else Markup("")]
    if report.all_warnings:
        parts += [element("h3", "Warnings"), bullets(map(_flag, report.all_warnings))]
    if report.notes:
        parts += [element("h3", "Notes"), bullets(report.notes)]
    if not with_plots:
        parts.append(element("p", NO_PLOTS, cls="note"))
    return Markup("".join(parts))


def _flag(warning: str) -> Markup:
    return element("span", warning, cls="flag")


def _pareto(report: CompressionReport, with_plots: bool) -> Markup:
    front = [r for r in (report.original, *report.tried) if r.name in report.pareto]
    told = look(
        "Up and to the left is better. What is on the line is beaten by nothing in both; below the "
        "dotted line the allowed drop is used up. The pointer on a mark tells which it is."
        if report.metric.higher_is_better
        else "Down and to the left is better. What is on the line is beaten by nothing in both; "
        "above the dotted line the allowed drop is used up."
    )
    legend = element(
        "p",
        "◆ original · ★ chosen · ● passed · ✕ refused · ▼ refused, and far beyond the plot",
        cls="note",
    )
    picture = Markup("")
    if with_plots:
        against = [plots.Against(batch) for batch in report.timed_batches] + [plots.Against()]
        drawn = [figure(plots.pareto_plot(report, each)) for each in against]
        picture = Markup(legend + element("div", *drawn, cls="grid"))
    parts = [told, picture]
    if not report.timed_batches:
        parts.append(element("p", "No latency was measured.", cls="note"))
    if front:
        parts += [element("h3", "Beaten by nothing"), _candidates(report, front)]
    return Markup("".join(parts))


def _comparison(report: CompressionReport) -> Markup:
    before, best, metric, test = report.original, report.chosen, report.metric, report.test
    lines: list[tuple[str, str, str, str]] = [
        (
            f"{metric.name}, search rows (95 %)",
            wording.score_interval(before.value, before.interval, metric),
            wording.score_interval(best.value, best.interval, metric),
            wording.drop(best.drop, metric) + " drop",
        )
    ]
    if test is not None:
        lines.append(
            (
                f"{metric.name}, untouched test rows (95 %)",
                wording.score_interval(test.original, test.original_interval, metric),
                wording.score_interval(test.best, test.best_interval, metric),
                wording.drop(test.drop, metric) + " drop",
            )
        )
    for name, was, now in (
        ("parameters", before.parameters, best.parameters),
        ("MACs of one row", before.macs, best.macs),
    ):
        lines.append((name, wording.count(was), wording.count(now), _fewer(was, now)))
    for name, was, now in (
        ("file, bytes", before.size_bytes, best.size_bytes),
        ("file packed by xz, bytes", before.packed_bytes, best.packed_bytes),
        ("memory once loaded, bytes", before.memory_bytes, best.memory_bytes),
    ):
        lines.append((name, wording.count(was), wording.count(now), _fewer(was, now)))
    for batch in report.timed_batches:
        lines += _latency_lines(report, batch)
    shares = (wording.percent(before.int8_share), wording.percent(best.int8_share))
    lines.append(("MACs that run in int8", *shares, ""))
    chosen = "chosen: " + best.name
    return Markup(
        table(("", "original", chosen, "gain"), lines)
        + element(
            "p",
            "Memory is what loading the model in ONNX Runtime and one run add to a fresh process. "
            "The int8 share is read from the graph that ONNX Runtime really runs.",
            cls="note",
        )
    )


def _latency_lines(report: CompressionReport, batch: str) -> list[tuple[str, str, str, str]]:
    cells = []
    for row in (report.original, report.chosen):
        latency = row.latency_s.get(batch)
        middle = wording.duration(latency.p50 if latency else None)
        if latency and latency.lower is not None and latency.upper is not None:
            ends = f"{wording.duration(latency.lower)} to {wording.duration(latency.upper)}"
            middle += f" ({ends})"
        cells.append((middle, wording.duration(latency.p95 if latency else None)))
    gain = report.chosen.speed_up.get(batch)
    told = wording.ratio(gain.ratio if gain else None)
    if gain and gain.lower is not None:
        told += f", at least {wording.ratio(gain.lower)}"
    (was, was_95), (now, now_95) = cells
    return [
        (f"batch {batch}: median of a run (95 %)", was, now, told),
        (f"batch {batch}: 95th percentile", was_95, now_95, ""),
    ]


def _fewer(was: int | None, now: int | None) -> str:
    return wording.ratio(wording.quotient(was, now))


def _steps(report: CompressionReport, with_plots: bool) -> Markup:
    sizes = (report.original.size_bytes, *(step.size_bytes for step in report.chosen.steps))
    drawn = figure(plots.step_plot(report)) if with_plots and any(sizes) else Markup("")
    return Markup(drawn + table(STEPS_HEAD, step_lines(report), words=2))


def _tried(report: CompressionReport) -> Markup:
    refused = sum(1 for row in report.tried if row.refusal)
    lines = [
        (
            *(row.name, s.technique, settings_in_words(s.settings)),
            *map(wording.count, (s.parameters, s.macs, s.size_bytes)),
            wording.duration(s.seconds),
        )
        for row in report.tried
        for s in row.steps
    ]
    head = ("candidate", "step", "settings", "parameters", "MACs", "file, bytes", "took")
    steps = element(
        "details",
        element("summary", "Steps of every candidate"),
        table(head, lines, words=3),
    )
    parts = [element("p", f"{len(report.tried):,} tried, {refused:,} of them refused.")]
    passed = [row for row in report.tried if not row.refusal]
    missed = [row for row in report.tried if row.refusal]
    for title, rows in (("Passed", passed), ("Refused", missed)):
        if rows:
            parts += [element("h3", title), _candidates(report, rows[:MOST_ROWS])]
        if len(rows) > MOST_ROWS:
            summary = element("summary", f"{len(rows) - MOST_ROWS:,} more")
            parts.append(element("details", summary, _candidates(report, rows[MOST_ROWS:])))
    return Markup("".join(parts) + (steps if lines else ""))


def _candidates(report: CompressionReport, rows: tuple[Row, ...] | list[Row]) -> Markup:
    """Rows of candidates; columns that nobody fills are left out."""
    metric, batches = report.metric, report.timed_batches
    head = [
        *("candidate", "family", "refused because", metric.name, "drop", "drop at most", "proven"),
        *("parameters", "MACs", "file", "packed", "memory", "int8"),
    ]
    for batch in batches:
        head += [f"p50, batch {batch}", f"faster (at least), batch {batch}"]
    lines = []
    for row in rows:
        is_chosen = row.name == report.chosen.name
        line: list[str] = [
            element("b", f"★ {row.name}") if is_chosen else row.name,
            row.family,
            row.refusal or "",
            wording.score_interval(row.value, row.interval, metric),
            wording.drop(row.drop, metric),
            wording.drop(row.drop_upper, metric),
            "" if row.is_proven is None else "yes" if row.is_proven else "no",
            *map(wording.count, (row.parameters, row.macs)),
            *map(wording.size, (row.size_bytes, row.packed_bytes, row.memory_bytes)),
            wording.percent(row.int8_share),
        ]
        for batch in batches:
            latency, gain = row.latency_s.get(batch), row.speed_up.get(batch)
            line.append(wording.duration(latency.p50 if latency else None))
            faster = wording.ratio(gain.ratio if gain else None)
            lower = gain.lower if gain else None
            line.append(faster if lower is None else f"{faster} ({wording.ratio(lower)})")
        lines.append(line)
    inner = table(*without_empty_columns(head, lines), words=_words(lines))
    return element("div", inner, cls="roomy")


def _words(lines: list[list[str]]) -> int:
    """How many of the first three columns, which are words, are left."""
    return 1 + sum(any(line[i] for line in lines) for i in (1, 2))


def _judged(report: CompressionReport) -> Markup:
    rows, metric, machine = report.rows, report.metric, report.machine
    how = {
        "metric": f"{metric.name}, {'more' if metric.higher_is_better else 'less'} is better",
        "output": report.output,
        "allowed drop": _told(report.max_drop, wording.drop(report.max_drop, metric)),
        "the bound": "proven" if report.is_proven else "estimated, not proven",
        "smallest drop that the rows can prove": _told(
            report.smallest_provable_drop, wording.drop(report.smallest_provable_drop, metric)
        ),
        "comparisons corrected for": _told(report.comparisons, wording.count(report.comparisons)),
        "data": report.data,
        "judged on": report.evaluation,
        "rows trained on": _told(rows.train, wording.count(rows.train)),
        "rows searched with": _told(rows.search, wording.count(rows.search)),
        "rows untouched until the end": _told(rows.test, wording.count(rows.test)),
        "the last look": verdict.last_look(report),
        "minimized": report.minimize,
        "execution provider": report.provider,
        "batches": ", ".join(map(str, report.batches)),
        "seed": _told(report.seed, str(report.seed)),
        "took": _told(report.seconds, wording.duration(report.seconds)),
        "processor": machine.cpu,
        "its flags": " ".join(machine.flags),
        "cores": _told(machine.cores, str(machine.cores)),
        "ONNX Runtime": machine.onnxruntime,
        "floor of a call": _told(machine.floor_s, wording.duration(machine.floor_s)),
    }
    told = (
        "The same rows are answered by the original and by each candidate; what counts is the rows "
        "where they differ. A drop is proven where its one-sided 95 % upper bound, corrected for "
        "choosing among many, is within what is allowed."
    )
    return Markup(look(told) + pairs({k: v for k, v in how.items() if v}))


def _told(value: float | None, words: str) -> str | None:
    return None if value is None else words


def _reproduce(report: CompressionReport) -> Markup:
    lines = [
        element(
            "p", "Beside the model stands recipe.lock: what went in, with what, and the steps."
        ),
        element("pre", element("code", "hlserve replay MODEL_FOLDER/VERSION/recipe.lock")),
        element("p", "It makes the same ONNX file again, byte for byte, on the same machine."),
    ]
    if report.command:
        lines += [element("p", "It was made by:"), element("pre", element("code", report.command))]
    seed = f" Seed {number(report.seed)}." if report.seed is not None else ""
    versions = f"Schema version {report.schema_version}.{seed}"
    return Markup("".join([*lines, element("p", versions, cls="note")]))
