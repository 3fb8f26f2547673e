"""``hlserve train``: rows in, a trained network in a file out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

# As a shell says it of a command that a signal ended.
EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143
_ARCHITECTURES = (
    "mlp:300,100 (hidden widths), cnn:32,64/128, lenet5, lenet5-caffe, resnet:8, lstm:128, gru:64, "
    "bigru:64, transformer:64,4,2; then perhaps an activation and dropout=RATE."
)
_SCHEDULES = (
    "cosine[:WARM_UP], one-cycle[:WARM_UP], step:STEPS[,FACTOR], plateau[:PATIENCE[,FACTOR]] or "
    "constant."
)

_Option = Callable[[Callable[..., Any]], Callable[..., Any]]

_ROWS: tuple[_Option, ...] = (
    click.option("--data", required=True, metavar="NAME|PATH", help="See `hlserve datasets`."),
    click.option("--target", metavar="COLUMN", help="Column or array that holds the labels."),
    click.option(
        "--categorical",
        metavar="COLUMNS",
        help="Columns of a table whose whole numbers are categories, with commas between.",
    ),
    click.option("--ignore", metavar="COLUMNS", help="Columns of a table to leave out."),
    click.option(
        "--image-size",
        metavar="HEIGHTxWIDTH",
        help="What image files are stretched to, such as 64 or 48x64.  [default: their own]",
    ),
    click.option(
        "--validation",
        type=click.FloatRange(min=0, max=1, min_open=True, max_open=True),
        default=0.1,
        show_default=True,
        help="Share of the training rows set apart to choose the best epoch.",
    ),
    click.option(
        "--augment",
        metavar="WORDS",
        help="Changes of training images: shift[:PIXELS], flip, zoom[:SHARE], erase[:PIXELS], "
        "noise:DEVIATION, with commas between.",
    ),
)
_NETWORK: tuple[_Option, ...] = (
    click.option(
        "--frontend",
        metavar="SPEC|FILE",
        help="Of texts and sounds: words:SIZE, subwords:SIZE or log-mel:BANDS; or any one's .json.",
    ),
    click.option(
        "--arch", default="mlp:300,100", show_default=True, metavar="SPEC", help=_ARCHITECTURES
    ),
    click.option(
        "--out",
        required=True,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Checkpoint to write, .safetensors; its folder is made.",
    ),
)
_OBJECTIVE: tuple[_Option, ...] = (
    click.option(
        "--loss",
        metavar="SPEC",
        help="cross-entropy or focal[:GAMMA]; mse, huber[:DELTA] or quantile:Q.  "
        "[default: cross-entropy, or mse for numbers]",
    ),
    click.option(
        "--label-smoothing",
        type=click.FloatRange(min=0, max=1),
        default=0.0,
        show_default=True,
        help="Share of every label that is spread over all classes.",
    ),
    click.option(
        "--class-weight",
        metavar="balanced|NUMBERS",
        help="What classes count in training.  [default: every row counts alike]",
    ),
    click.option(
        "--metric",
        metavar="NAME",
        help="What validation measures, such as f1, roc-auc or r2, and what the best epoch has "
        "most of.  [default: accuracy; for numbers the absolute error, and the loss ranks]",
    ),
)
_STEPS: tuple[_Option, ...] = (
    click.option("--epochs", type=click.IntRange(min=1), help="[default: 12, more for few rows]"),
    click.option(
        "--batch-size", type=click.IntRange(min=1), help="[default: 128, or 32 under 10,000 rows]"
    ),
    click.option(
        "--accumulate",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Batches that are added up for one step.",
    ),
    click.option(
        "--optimizer",
        type=click.Choice(["adamw", "rmsprop", "sgd"]),
        default="adamw",
        show_default=True,
    ),
    click.option(
        "--learning-rate",
        type=click.FloatRange(min=0, min_open=True),
        help="At its height.  [default: 0.003 adamw, 0.001 rmsprop, 0.05 sgd]",
    ),
    click.option(
        "--weight-decay",
        type=click.FloatRange(min=0),
        help="[default: 0.01 adamw, 0 rmsprop, 0.0001 sgd]",
    ),
    click.option(
        "--schedule", default="cosine", show_default=True, metavar="SPEC", help=_SCHEDULES
    ),
    click.option(
        "--clip-norm",
        type=click.FloatRange(min=0, min_open=True),
        help="The longest gradient; longer ones are shortened.  [default: any]",
    ),
    click.option(
        "--patience",
        type=click.IntRange(min=1),
        metavar="EPOCHS",
        help="Stop after so many epochs without a better one.  [default: run all]",
    ),
)
_RUN: tuple[_Option, ...] = (
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
    click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True),
    click.option(
        "--save-every",
        metavar="MINUTES|epoch",
        help="Write the training's state so often, so that --resume goes on after a crash too.",
    ),
    click.option("--resume", is_flag=True, help="Go on with the training that was interrupted."),
    click.option(
        "--report",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Folder for a page on how it learned: index.html, and report.json.",
    ),
    click.option(
        "--report-curve/--no-report-curve",
        default=True,
        show_default=True,
        help="Whether the report trains copies on fewer rows; takes about the training's time.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON."),
)


def _options(*groups: tuple[_Option, ...]) -> _Option:
    """Adds the options to a command, in their order."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed([option for group in groups for option in group]):
            function = option(function)
        return function

    return add


@click.command()
@_options(_ROWS, _NETWORK, _OBJECTIVE, _STEPS, _RUN)
def command(as_json: bool, report: Path | None, report_curve: bool, **options: Any) -> int:
    """Train a network on your rows and save it.

    Preprocessing becomes part of the network: it takes pixels 0..255, or the columns of a
    table in their own units. Ctrl-C and SIGTERM end the training after the step that is under
    way and save the best epoch so far; the same command with --resume goes on, and ends with
    the weights that an uninterrupted training has.

    \b
    Examples:
      hlserve train --data fashion-mini --arch mlp:300,100 --out runs/fashion.safetensors
      hlserve train --data ~/data/mnist --arch lenet5 --epochs 20 --out runs/mnist.safetensors
      hlserve train --data houses.csv --target price --arch mlp:64,64 --out runs/price.safetensors
      hlserve train --data heart.csv --target sick --categorical pain --out runs/heart.safetensors
      hlserve train --data photos/ --image-size 64 --arch cnn:32,64/128 --out runs/p.safetensors
      hlserve train --data digits --out runs/digits.safetensors --report runs/digits-report
      hlserve train --data digits --augment shift:1 --class-weight balanced --out d.safetensors
    """  # noqa: D301  # click's marker is a control character
    import msgspec

    from hlserve.cli.training import Settings, as_text, prepare, require_writable, train
    from hlserve.cli.training_choices import state_path

    settings = Settings(**options)
    if report is not None:
        from hlserve.cli.train_report import require_report, require_rows_in_memory, write_report

        require_report(report, settings.out)
    require_writable(settings.out)
    if state_path(settings.out).exists() and not settings.resume:
        click.echo(
            f"note: begins anew, though {state_path(settings.out)} holds an interrupted training; "
            "--resume would go on with it",
            err=True,
        )
    job = prepare(settings)
    if report is not None:
        require_rows_in_memory(job.dataset)
    summary, history = train(settings, job)
    click.echo(msgspec.json.encode(summary).decode() if as_json else as_text(summary))
    if report is not None:
        told = write_report(report, settings, job, history, with_curve=report_curve)
        click.echo(told, err=as_json)
    return {"interrupted": EXIT_INTERRUPTED, "terminated": EXIT_TERMINATED}.get(history.ending, 0)
