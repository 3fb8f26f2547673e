"""``hlserve datasets``: the sets that are known, with their licences."""

from __future__ import annotations

import click
import msgspec

from hlserve.datasets import KNOWN, KnownDataset


@click.command(
    "datasets",
    epilog="\b\nExamples:\n  hlserve datasets\n  hlserve datasets --json",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(as_json: bool) -> None:
    """List the data that is known by name, with its licence.

    An embedded set is asked for by its name. The others are recognised by their content, in a
    folder of their IDX files. Any --data option also takes a path: a folder of IDX files, of
    images, sounds or texts in class folders, an .npz, .csv, .tsv or .txt file.
    """
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode([_facts(known) for known in KNOWN])))
        return
    from tabulate import tabulate  # not in the light client

    headers = ["name", "get it by", "rows", "test", "row's shape", "classes", "licence", "source"]
    click.echo(tabulate([_row(known) for known in KNOWN], headers=headers, disable_numparse=True))


def _facts(known: KnownDataset) -> dict[str, object]:
    return {
        "name": known.name,
        "embedded": known.embedded,
        "train_rows": known.train_rows,
        "test_rows": known.test_rows,
        "shape": known.shape,
        "class_labels": known.class_labels,
        "units": known.units,
        "licence": known.licence,
        "source": known.source,
    }


def _row(known: KnownDataset) -> list[str]:
    return [
        known.name,
        "name" if known.embedded else "folder",
        f"{known.train_rows}",
        f"{known.test_rows}",
        " x ".join(map(str, known.shape)),
        f"{len(known.class_labels)}",
        known.licence,
        known.source,
    ]
