"""``hlserve doctor``: what this machine makes fast, and what it makes of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hlserve.cli.compress import batch_list

if TYPE_CHECKING:
    from compress.doctor import Machine, ModelFindings


@click.command(name="doctor")
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--batch", "batches", default="1,32", show_default=True, callback=batch_list)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(model: Path | None, batches: tuple[int, ...], as_json: bool) -> None:
    """Measure which formats this machine makes fast and what one call costs at least.

    With MODEL, a checkpoint or an ONNX file: its latency by threads and batch, and which
    operators run in integers. Its rows are made up.

    \b
    Examples:
      hlserve doctor
      hlserve doctor models/fashion/1/model.onnx --batch 1,32,256
    """  # noqa: D301 - click's mark for a block that keeps its lines
    from compress.doctor import examine_machine, examine_model
    from compress.export import as_graph
    from compress.job import read_model

    source = None if model is None else read_model(model)
    machine = examine_machine()
    findings = None
    if source is not None:
        findings = examine_model(as_graph(source), batches, machine.floor_s)
    if as_json:
        import msgspec

        content = {"machine": machine.described()}
        if findings is not None:
            content["model"] = findings.described()
        click.echo(msgspec.json.encode(content).decode())
        return
    click.echo(_machine(machine))
    if findings is not None:
        click.echo(_model(findings))


def _machine(machine: Machine) -> str:
    from tabulate import tabulate

    flags = ", ".join(machine.flags) or "no flags known"
    lines = [
        f"{machine.cpu}: {flags}; {machine.usable_cores} cores",
        f"ONNX Runtime {machine.onnxruntime}: {', '.join(machine.providers)}",
        f"a call that computes nothing takes {1e6 * machine.floor_s:.1f} us",
        "",
    ]
    kinds = list(machine.gains)
    formats = list(next(iter(machine.gains.values())))
    rows = [[name, *(f"{machine.gains[kind][name]:.2f}x" for kind in kinds)] for name in formats]
    table = tabulate(rows, headers=["against float32", *kinds], disable_numparse=True)
    best = max(formats, key=lambda name: min(machine.gains[kind][name] for kind in kinds))
    return "\n".join([*lines, table, f"integers that gain most here: {best}", *machine.advice])


def _model(findings: ModelFindings) -> str:
    from tabulate import tabulate

    rows = [
        [threads, batch, f"{1e6 * t.p50_s:,.0f} us", f"{1e6 * t.p95_s:,.0f} us"]
        for threads, by_batch in findings.latency.items()
        for batch, t in by_batch.items()
    ]
    headers = ["threads", "batch", "p50", "p95"]
    operators = ", ".join(f"{kind} x{n}" for kind, n in findings.operators.items())
    table = tabulate(rows, headers=headers, disable_numparse=True)
    runs = f"runs as {operators}; layers in integers: {findings.integer_layers}"
    return "\n".join(["", table, "", runs, *findings.advice])
