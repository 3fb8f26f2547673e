"""``hlserve search``: how deep and how wide a network should be for some rows."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hlserve.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from compress.architecture_search.report import Figure, FrontNetwork, Report

EXIT_INTERRUPTED = 130  # as a shell says it of a command that Ctrl-C ended


@click.command(name="search")
@click.option("--data", required=True, metavar="NAME|PATH", help="See `hlserve datasets`.")
@click.option("--target", metavar="COLUMN", help="Column or array that holds the labels.")
@click.option("--categorical", metavar="COLUMNS", help="As for `hlserve train`.")
@click.option("--ignore", metavar="COLUMNS", help="As for `hlserve train`.")
@click.option("--image-size", metavar="HEIGHTxWIDTH", help="As for `hlserve train`.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for the result, and for --resume to go on from; it is made.",
)
@click.option(
    "--max-params", required=True, type=click.IntRange(min=1), help="No network has more."
)
@click.option("--trials", type=click.IntRange(min=1), default=50, show_default=True)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Trainings at a time, a process and a thread each.",
)
@click.option(
    "--family",
    type=click.Choice(["auto", "mlp", "cnn"]),
    default="auto",
    show_default=True,
    help="auto tries convolutions too where rows are images.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Of each training; see `hlserve train`.")
@click.option(
    "--validation",
    type=click.FloatRange(min=0, max=1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    help="Share of the training rows that scores the trials.",
)
@click.option(
    "--budget",
    metavar="TIME",
    help="Such as 10m: then no training goes on, once one is done.",
)
@click.option("--resume", "is_resumed", is_flag=True, help="Go on with the search in --out.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(out: Path, is_resumed: bool, as_json: bool, **options: Any) -> int:
    """Search for small networks that are good on your rows.

    Depth, width, activation, dropout, weight decay and learning rate are searched together.
    The result is the front: networks that no other beats without costing more. Trainings that
    lag behind are stopped early. Test rows are looked at once, for the front. Ctrl-C ends the
    search with what there is.

    \b
    Examples:
      hlserve search --data digits --max-params 20000 --trials 40 --jobs 2 --out runs/search
      hlserve search --data digits --max-params 20000 --trials 80 --resume --out runs/search
      hlserve search --data houses.csv --target price --max-params 5000 --budget 10m --out runs/price
    """  # noqa: D301, E501 - click's mark for a block that keeps its lines
    from compress.architecture_search.search import Effort, Settings, search
    from compress.clock import parse_duration
    from hlserve.cli.training_choices import names_of
    from hlserve.datasets import load

    budget_s = None if options["budget"] is None else parse_duration(options["budget"])
    _require_folder(out)
    dataset = load(
        options["data"],
        target=options["target"],
        categorical=names_of(options["categorical"]),
        ignore=names_of(options["ignore"]),
        image_size=options["image_size"],
    )
    report = search(
        dataset,
        Settings(
            max_parameters=options["max_params"],
            family=options["family"],
            validation=options["validation"],
            epochs=options["epochs"],
            seed=options["seed"],
        ),
        Effort(options["trials"], options["jobs"], budget_s),
        out,
        is_resumed=is_resumed,
        progress=True,
        tell=_say,
    )
    _draw(report, out)
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(report).decode())
    else:
        click.echo(_as_text(report, out, options))
    return EXIT_INTERRUPTED if report.is_interrupted else 0


def _require_folder(out: Path) -> None:
    """Makes the folder before the work, so that it is known to be writable."""
    import tempfile

    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot write there: {error.strerror}") from error


def _say(line: str) -> None:
    """One line on stderr, above the progress bar if one is shown."""
    from tqdm import tqdm

    with tqdm.external_write_mode():
        click.echo(line, err=True)


def _draw(report: Report, out: Path) -> None:
    from compress.architecture_search.plot import draw_front

    try:
        draw_front(report, out)
    except MissingDependencyError as error:
        _say(f"no front.svg: {error}")


def _as_text(report: Report, out: Path, options: dict[str, Any]) -> str:
    from tabulate import tabulate

    rows = [_row(network, report) for network in report.front]
    named = {"mae": "mean absolute error"}.get(report.metric, report.metric)
    batches = list(report.front[0].latency_us)
    table = tabulate(
        rows,
        headers=[
            *("", "trial", "architecture", "parameters", "MACs"),
            *(f"us, {batch} row{'s' * (batch != '1')}" for batch in batches),
            *("validation", "behind the best", "test"),
        ],
        disable_numparse=True,
        colalign=("left", "right", "left", *["right"] * (5 + len(batches))),
    )
    counts = [sum(t.state == state for t in report.trials) for state in ("trained", "stopped")]
    n_rows = report.front[0].validation.rows
    return "\n".join(
        [
            f"{len(report.trials)} trials: {counts[0]} trained, {counts[1]} stopped early "
            f"({report.ending})",
            "",
            table,
            "",
            f"{named} on {n_rows:,} validation rows, which chose; 95 % intervals"
            + ("" if report.front[0].test else "; the data has no test rows, so these flatter"),
            *_recommendation(report, options),
            f"saved {out}/: search.json, the front's checkpoints and picture",
        ]
    )


def _row(network: FrontNetwork, report: Report) -> list[str]:
    behind = network.behind_best
    is_best = network is report.front[-1]
    return [
        "*" if network.trial == report.recommended else "",
        str(network.trial),
        network.architecture,
        f"{network.parameters:,}",
        f"{network.macs:,}",
        *(f"{latency:,.0f}" for latency in network.latency_us.values()),
        _figure(network.validation, report.metric),
        "best"
        if is_best
        else f"{_number(behind.estimate, report)} ({_number(behind.low, report)} to "
        f"{_number(behind.high, report)})",
        "" if network.test is None else _figure(network.test, report.metric),
    ]


def _recommendation(report: Report, options: dict[str, Any]) -> list[str]:
    (chosen,) = (n for n in report.front if n.trial == report.recommended)
    words = ["hlserve train --data", shlex.quote(options["data"])]
    for name in ("target", "categorical", "ignore", "image_size"):
        if options[name] is not None:
            words += [f"--{name.replace('_', '-')}", shlex.quote(options[name])]
    return [
        f"* recommended: {chosen.architecture}, the fewest MACs among those that the validation "
        "rows do not",
        "  show to be worse than the best (the interval of the paired difference holds zero)",
        f"  trained again by: {' '.join(words)} {chosen.train_options} --out FILE.safetensors",
    ]


def _figure(figure: Figure, metric: str) -> str:
    if metric == "accuracy":
        return f"{100 * figure.value:.2f} % ({100 * figure.low:.2f} to {100 * figure.high:.2f})"
    return f"{figure.value:.4g} ({figure.low:.4g} to {figure.high:.4g})"


def _number(value: float, report: Report) -> str:
    return f"{100 * value:.2f} pp" if report.metric == "accuracy" else f"{value:.4g}"
