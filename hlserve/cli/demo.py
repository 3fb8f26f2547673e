"""``hlserve demo``: to come."""

import click


@click.command(name="demo")
def command() -> None:
    """To come."""
