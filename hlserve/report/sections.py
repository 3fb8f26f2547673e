"""The sections of a training report, in the order of the page."""

from __future__ import annotations

from collections.abc import Iterator

from hlserve.report import plots, wording
from hlserve.report.learning import Epoch, Example, LayerHealth, LearningReport, Metric
from hlserve.report.markup import Markup, bullets, element, heat_table, picture, table, text
from hlserve.report.outcomes import most_confused

READABLE_CLASSES = 30
_MOST_OUTPUTS = 4  # plots of a regression's outputs


def sections(report: LearningReport) -> Iterator[tuple[str, str, Markup]]:
    """(anchor, title, content) of every section that applies."""
    yield "summary", "Summary", _summary(report)
    yield "verdict", "Verdict", _verdict(report)
    yield "curves", "Learning, epoch by epoch", _curves(report)
    yield "layers", "Layers", _layers(report)
    if report.confusion is not None or report.class_scores:
        yield "classes", "Classes", _classes(report)
    if report.regression:
        yield "predictions", "Predictions", _predictions(report)
    if report.calibration is not None:
        yield "calibration", "Calibration", _calibration(report)
    if report.worst.examples:
        yield "worst", "Worst examples", _worst(report)


def _look(sentence: str) -> Markup:
    return element("p", sentence, cls="look")


def _summary(report: LearningReport) -> Markup:
    data = report.data
    shapes = "; ".join(
        f"{c.name} {_shape(c.shape)}" + (f", {c.units}" if c.units else "") for c in data.inputs
    )
    facts = {
        "data": data.name,
        "source": data.source,
        "licence": data.licence,
        "task": data.task + (f", {data.classes} classes" if data.classes else ""),
        "input": shapes,
        "ended with": report.ending,
    }
    parameters = sum(layer.parameters for layer in report.layers)
    macs = sum(layer.macs for layer in report.layers)
    layers = [
        (x.name, x.kind, _shape(x.output_shape), f"{x.parameters:,}", f"{x.macs:,}")
        for x in report.layers
    ]
    total = (element("b", "all"), "", "", f"{parameters:,}", f"{macs:,}")
    return Markup(
        _look(
            "Look at the test rows first: nothing was chosen by them. Validation chose the best "
            "epoch and flatters a little."
        )
        + _parts(report)
        + element("h3", "Data")
        + _pairs(facts)
        + element("h3", f"Architecture: {report.architecture}")
        + table(
            ("layer", "kind", "output of one row", "parameters", "MACs a row"),
            [*layers, total],
            words=2,
        )
        + element("details", element("summary", "Settings"), _pairs(report.settings))
    )


def _parts(report: LearningReport) -> Markup:
    metric = report.metric
    name = metric.name if metric else "metric"
    body = [
        (
            part.name,
            f"{part.rows:,}"
            + ("" if part.measured == part.rows else f" ({part.measured:,} drawn)"),
            wording.score_interval(part.metric, metric),
            wording.score_interval(part.loss, None),
        )
        for part in report.parts
    ]
    base = report.baseline
    line = (
        f"baseline: {base.name}",
        "",
        wording.score(base.metric, metric),
        wording.number(base.loss),
    )
    told = table(("rows", "count", name, "loss"), [*body, line])
    if any(part.name == "test" for part in report.parts):
        return told
    return Markup(told + element("p", "The data has no test rows of its own.", cls="note"))


def _verdict(report: LearningReport) -> Markup:
    verdict, curve = report.verdict, report.curve
    parts = [
        _look(
            "The verdict rests on intervals, not on a single number: a gap counts when it is "
            "more than chance and large enough to matter."
        ),
        element(
            "div",
            element("b", verdict.kind.capitalize()),
            element("p", verdict.sentence),
            cls="verdict " + verdict.kind.replace(" ", "-"),
        ),
        element("h3", "What to try"),
        bullets(verdict.advice),
        element("h3", "Evidence"),
        bullets(verdict.evidence),
    ]
    if curve is not None:
        parts += [
            element("h3", "Learning curve over growing training sizes"),
            _look(
                "A validation line that still climbs at the right (for an error or a loss: falls) "
                "says that more rows would help; two lines far apart are overfitting, two that "
                "meet at a bad level underfitting."
            ),
            _figure(plots.learning_curve_plot(curve, report.metric)),
            element(
                "p",
                f"Fresh copies of the network, {curve.steps:,} steps each whatever the number of "
                f"rows (a reduced budget: the training took more), {curve.seconds:.1f} s in all.",
                cls="note",
            ),
        ]
    return Markup("".join(parts))


def _curves(report: LearningReport) -> Markup:
    train = next((p.metric for p in report.parts if p.name == "training"), None)
    best = report.best_epoch
    drawn = [plots.loss_plot(report.epochs, best)]
    if report.metric is not None and _has_metric(report.epochs, report.metric):
        drawn.append(plots.metric_plot(report.epochs, best, report.metric, train))
    drawn.append(plots.learning_rate_plot(report.epochs, best))
    return Markup(
        _look(
            "Both losses should fall and flatten together. A validation loss that turns up while "
            "the training loss falls is overfitting; one that still falls at the end wants more "
            "epochs."
        )
        + element("div", *map(_figure, drawn), cls="grid")
        + element(
            "p",
            "The training loss is the mean while the epoch was trained on, dropout and all; the "
            "weights kept are those of the best epoch.",
            cls="note",
        )
    )


def _has_metric(epochs: tuple[Epoch, ...], metric: Metric) -> bool:
    return any(e.validation_metric is not None for e in epochs)


def _layers(report: LearningReport) -> Markup:
    head = (
        *("layer", "kind", "mean", "std", "dead units", "saturated", "RMS of weights"),
        *("RMS of gradient", "stands out"),
    )
    flagged = [layer for layer in report.health if layer.flags]
    told = (
        f"{len(flagged)} of {len(report.health)} layers stand out."
        if flagged
        else "No layer stands out."
    )
    return Markup(
        _look(
            "Spreads and gradients should stay within a few powers of ten from the first layer "
            "to the last; many dead or saturated units are width that does no work."
        )
        + element("p", told)
        + table(head, map(_health_row, report.health), words=2)
        + _figure(plots.health_plot(report.health), cls="figure wide")
        + element(
            "p",
            "Measured after the training on up to 256 training rows; gradients are those of "
            "batches of 64. A dead unit is zero on every one of these rows.",
            cls="note",
        )
    )


def _health_row(layer: LayerHealth) -> tuple[str, ...]:
    return (
        *(layer.name, layer.kind, wording.number(layer.mean), wording.number(layer.std)),
        *(wording.percent(layer.dead), wording.percent(layer.saturated)),
        *(wording.number(layer.weight_rms), wording.number(layer.gradient_rms)),
        element("span", "; ".join(layer.flags), cls="flag") if layer.flags else "",
    )


def _classes(report: LearningReport) -> Markup:
    parts = [
        _look(
            "The diagonal is right. Look for classes with a low recall, and for pairs that are "
            "taken for each other: those need more rows, or other inputs."
        )
    ]
    matrix = report.confusion
    if matrix is not None:
        if len(matrix.labels) <= READABLE_CLASSES:
            parts += [
                element("h3", "Confusion matrix, validation rows"),
                heat_table(matrix),
                element("p", "Colour: share of the true class.", cls="note"),
            ]
        pairs = most_confused(matrix)
        if pairs:
            body = [(a, b, f"{n:,}") for a, b, n in pairs]
            parts += [
                element("h3", "Most confused pairs"),
                table(("true", "taken for", "rows"), body, words=2),
            ]
    scores = [
        (s.label, f"{s.rows:,}", *map(wording.percent, (s.precision, s.recall, s.f1)))
        for s in report.class_scores
    ]
    parts += [
        element("h3", "By class"),
        table(("class", "validation rows", "precision", "recall", "F1"), scores),
    ]
    return Markup("".join(parts))


def _predictions(report: LearningReport) -> Markup:
    parts = [
        _look(
            "Dots should lie along the dashed line and residuals around 0; a curve or a funnel "
            "is structure that the network has not learnt."
        )
    ]
    for i, result in enumerate(report.regression[:_MOST_OUTPUTS]):
        parts += [
            element("h3", f"Output: {result.output}"),
            _figure(plots.regression_plot(result, i), cls="figure wide"),
            element(
                "p",
                f"R² {wording.number(result.r2)}; mean residual {wording.number(result.bias)}; "
                f"{wording.rows(len(result.targets), 'validation row')} shown.",
            ),
        ]
    if len(report.regression) > _MOST_OUTPUTS:
        parts.append(
            element("p", f"The first {_MOST_OUTPUTS} of {len(report.regression)} outputs.")
        )
    return Markup("".join(parts))


def _calibration(report: LearningReport) -> Markup:
    assert report.calibration is not None  # else the section is left out
    error = wording.percent(report.calibration.expected_error)
    return Markup(
        _look(
            "Dots on the dashed line mean that stated probabilities come true; below it the "
            "network is too sure of itself, above it not sure enough."
        )
        + _figure(plots.calibration_plot(report.calibration), cls="figure wide")
        + element("p", f"Expected calibration error (10 bins): {error}.")
    )


def _worst(report: LearningReport) -> Markup:
    look = _look(
        "The validation rows with the highest loss. Wrong labels, broken inputs and classes that "
        "even a person could not tell apart show here first."
    )
    examples = report.worst.examples
    if examples[0].picture is not None:
        return Markup(look + element("div", *map(_card, examples), cls="cards"))
    stated = ("p(true)",) if examples[0].probability is not None else ()
    head = ("row", "true", "predicted", *stated, "loss", *report.worst.columns)
    body = [
        (
            *(f"{e.row:,}", e.truth, e.predicted),
            *(wording.percent(e.probability) for _ in stated),
            *(wording.number(e.loss), *map(wording.number, e.values)),
        )
        for e in examples
    ]
    return Markup(look + table(head, body, words=0))


def _card(example: Example) -> Markup:
    assert example.picture is not None  # all of the page's examples are pictures, or none
    told = [
        picture(example.picture, f"row {example.row}, true {example.truth}"),
        element("div", element("b", example.truth)),
        element("div", f"taken for {example.predicted}"),
        element("div", f"p(true) {wording.percent(example.probability)}", cls="small"),
        element("div", f"row {example.row}, loss {example.loss:.2f}", cls="small"),
    ]
    return element("div", *told, cls="card")


def _pairs(facts: dict[str, str]) -> Markup:
    items = "".join(element("dt", k.replace("_", " ")) + element("dd", v) for k, v in facts.items())
    return element("dl", Markup(items))


def _figure(svg: str, cls: str = "figure") -> Markup:
    return element("div", Markup(svg), cls=cls)


def _shape(shape: tuple[int, ...]) -> str:
    return text(" \N{MULTIPLICATION SIGN} ".join(map(str, shape)) or "1")
