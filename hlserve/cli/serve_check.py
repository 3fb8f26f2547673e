"""``hlserve serve --check``: whether a repository can be served, as a table."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hlserve.serving.config import ServerConfig
    from hlserve.serving.dry_run import CheckedVersion
    from hlserve.serving.session import TensorInfo

_HEADERS = ("model", "version", "joined", "inputs", "outputs", "problem")


def check(config: ServerConfig) -> int:
    """Prints what would be served; answers the exit code, 1 where anything would not."""
    from tabulate import tabulate

    from hlserve.serving.dry_run import dry_run

    logging.getLogger("hlserve.serving.loading").setLevel(logging.CRITICAL)  # the table tells it
    checked = dry_run(config)
    rows = [_row(version) for version in checked]
    widths = [None] * (len(_HEADERS) - 1) + [60]
    click.echo(tabulate(rows, headers=_HEADERS, disable_numparse=True, maxcolwidths=widths))
    problems = sum(bool(version.problem) for version in checked)
    click.echo(f"\n{len(checked) - problems} can be served, {problems} cannot")
    return 1 if problems else 0


def _row(version: CheckedVersion) -> tuple[str, ...]:
    return (
        version.name,
        "" if version.version is None else str(version.version),
        "" if version.problem else ("yes" if version.joins else "no"),
        _tensors(version.inputs),
        _tensors(version.outputs),
        version.problem,
    )


def _tensors(tensors: Sequence[TensorInfo]) -> str:
    return ", ".join(f"{t.name} {t.datatype.name} {list(t.shape)}" for t in tensors)
