"""``hlserve train``: rows in, a trained network in a file out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

EXIT_INTERRUPTED = 130  # as a shell says it of a command that Ctrl-C ended
_ARCHITECTURES = "mlp:300,100 (hidden widths), lenet5 or lenet5-caffe."


@click.command()
@click.option("--data", required=True, metavar="NAME|PATH", help="See `hlserve datasets`.")
@click.option("--target", metavar="COLUMN", help="Column or array that holds the labels.")
@click.option(
    "--frontend",
    metavar="SPEC|FILE",
    help="Of texts and sounds: words:SIZE, subwords:SIZE, log-mel:BANDS or its .json.",
)
@click.option(
    "--arch", default="mlp:300,100", show_default=True, metavar="SPEC", help=_ARCHITECTURES
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Checkpoint to write, .safetensors; its folder is made.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="[default: 12, more for few rows]")
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="[default: 128, or 32 under 10,000 rows]"
)
@click.option(
    "--optimizer", type=click.Choice(["adamw", "sgd"]), default="adamw", show_default=True
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    help="At its height; falls to 0 along a cosine.  [default: 0.003 adamw, 0.05 sgd]",
)
@click.option(
    "--weight-decay", type=click.FloatRange(min=0), help="[default: 0.01 adamw, 0.0001 sgd]"
)
@click.option(
    "--validation",
    type=click.FloatRange(min=0, max=1, min_open=True, max_open=True),
    default=0.1,
    show_default=True,
    help="Share of the training rows set apart to choose the best epoch.",
)
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    metavar="EPOCHS",
    help="Stop after so many epochs without a better one.  [default: run all]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for a page on how it learned: index.html, and report.json.",
)
@click.option(
    "--report-curve/--no-report-curve",
    default=True,
    show_default=True,
    help="Whether the report trains copies on fewer rows; takes about the training's time again.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(as_json: bool, report: Path | None, report_curve: bool, **options: Any) -> int:
    """Train a network on your rows and save it.

    Preprocessing becomes part of the network: it takes pixels 0..255, or the columns of a
    table in their own units. Ctrl-C ends the training and saves the best epoch so far.

    \b
    Examples:
      hlserve train --data fashion-mini --arch mlp:300,100 --out runs/fashion.safetensors
      hlserve train --data ~/data/mnist --arch lenet5 --epochs 20 --out runs/mnist.safetensors
      hlserve train --data houses.csv --target price --arch mlp:64,64 --out runs/price.safetensors
      hlserve train --data digits --out runs/digits.safetensors --report runs/digits-report
    """  # noqa: D301  # click's marker is a control character
    import msgspec

    from hlserve.cli.training import Settings, as_text, prepare, require_writable, train

    settings = Settings(**options)
    if report is not None:
        from hlserve.cli.train_report import require_report, write_report

        require_report(report, settings.out)
    require_writable(settings.out)
    job = prepare(settings)
    summary, history = train(settings, job)
    click.echo(msgspec.json.encode(summary).decode() if as_json else as_text(summary))
    if report is not None:
        told = write_report(report, settings, job, history, with_curve=report_curve)
        click.echo(told, err=as_json)
    return EXIT_INTERRUPTED if history.is_interrupted else 0
