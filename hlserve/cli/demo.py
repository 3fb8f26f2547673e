"""``hlserve demo``: the whole chain on real images, and an honest table at its end."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(name="demo")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    show_default=True,
    help="The folder that everything is written into; made if absent.",
)
def command(out: Path) -> None:
    """Train two networks on Fashion-MNIST images, compress, serve and query them.

    Takes under a minute on two cores, downloads nothing, and uses free ports.

    \b
    Examples:
      hlserve demo
      hlserve demo --out /tmp/hlserve-demo
    """  # noqa: D301 - click's mark for a block that keeps its lines
    from hlserve.cli.showcase import show

    show(out, say=click.echo)
