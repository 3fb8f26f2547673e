"""``hlserve predict``: one input to a running server, its answer in words."""

from __future__ import annotations

from typing import Any

import click

from hlserve.cli.connecting import connection_options


@click.command(name="predict")
@click.argument("address")
@click.argument("model")
@click.option(
    "--input",
    "source",
    help="A .png, .csv, .json, .npy or .npz file, a text, an image or a sound; - is stdin.",
)
@click.option("--data", help="A data set by name or path, in place of --input.")
@click.option("--row", type=click.IntRange(0), default=0, help="Which of its (test) rows.")
@click.option("--target", help="Its label column or array, where not y.")
@click.option("--version", default="", help="The model's version; without one, the latest.")
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="Classes shown.")
@click.option("--timeout-s", type=click.FloatRange(0), default=60.0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all outputs.")
@connection_options
def command(address: str, model: str, version: str, as_json: bool, **options: Any) -> None:
    """Ask the server at ADDRESS what MODEL says to an input.

    A model of texts, sounds, image files or a table's cells was published with its front end,
    which is applied here: --input is then the text itself, a .txt file or stdin of a text a
    line; a sound or image file; or rows of cells, in a .csv or .json file, as they are or from
    stdin. For any other model an image must have the size that it takes; nothing is resized.

    \b
    Examples:
      hlserve predict localhost:8001 fashion --input shoe.png
      hlserve predict localhost:8001 fashion --data fashion-mini --row 0
      hlserve predict localhost:8001 sentiment --input "good food, good staff"
      hlserve predict localhost:8001 digits --input seven.wav
      hlserve predict localhost:8001 heart --input '{"age": 54, "pain": "none", "chol": null}'
      echo '[[5.1, 3.5, 1.4, 0.2]]' | hlserve predict localhost:8001 iris --input - --json
    """  # noqa: D301 - click's mark for a block that keeps its lines
    from hlserve.cli.prediction import ask

    for line in ask(address, model, version, as_json=as_json, **options):
        click.echo(line)
