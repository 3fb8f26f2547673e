"""``hlserve compress``, which is ``python -m compress`` too: a smaller model, published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hlserve.errors import BoundNotMetError, ConfigError, RepositoryError

if TYPE_CHECKING:
    from compress.bound import Drop
    from compress.metric import Metric
    from compress.search import Goal, Result, Search, Verdict
    from hlserve.cli.model_rows import ModelFacts
    from hlserve.datasets import Rows

_MAX_BATCH = 65536


def _batches(_ctx: click.Context, _option: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers, such as 1,32") from None
    if min(sizes) < 1 or max(sizes) > _MAX_BATCH or len(set(sizes)) < len(sizes):
        raise click.BadParameter(f"{text!r}: expected different sizes from 1 to {_MAX_BATCH}")
    return sizes


@click.command(name="compress")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", required=True, metavar="NAME|PATH", help="Rows to learn from.")
@click.option("--eval", "evaluation", metavar="NAME|PATH", help="Rows to judge with, others.")
@click.option("--target", metavar="NAME", help="Column or array that holds the labels.")
@click.option(
    "--max-drop", required=True, help="What the metric may lose: 0.005, or 0.5pp for a share."
)
@click.option(
    "--metric",
    help="accuracy, f1, roc_auc, mse, mae, agreement, label-agreement, cosine, or your own "
    "module:function(outputs, labels).  [default: by the labels]",
)
@click.option("--output", help="Which output of an ONNX file is judged.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="The model's folder: ROOT/NAME."
)
@click.option(
    "--batch",
    "batches",
    default="1,32",
    show_default=True,
    callback=_batches,
    help="Rows a run, at which latency is measured.",
)
@click.option(
    "--minimize",
    type=click.Choice(["latency", "bytes"]),
    default="latency",
    show_default=True,
    help="With bytes, the smallest file wins even where it is slower.",
)
@click.option("--recipe", type=click.Path(path_type=Path), help="A TOML file: only these steps.")
@click.option(
    "--prune",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="The only share of units to remove.",
)
@click.option("--quantize", type=click.Choice(["int8", "none"]), help="Only this.")
@click.option(
    "--teacher", type=click.Path(path_type=Path), help="Whose answers are imitated, a model file."
)
@click.option("--student", metavar="SPEC", help="A small architecture to distil into: mlp:64.")
@click.option(
    "--require-proof", is_flag=True, help="Refuse what keeps the bound by its estimate alone."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(model: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Make MODEL smaller and faster, and publish it at --out if it is as good as before.

    MODEL is a checkpoint of `hlserve train` (.safetensors) or any ONNX file; texts, sounds,
    images and tables go through its own front end, which is published with the result. Candidates are
    judged on --eval; without it on the data's own test rows, or on a fifth set apart. Without
    labels the metric is agreement with the original. If nothing passes, the original is kept
    and the exit code is 3.

    \b
    Examples:
      hlserve compress runs/fashion.safetensors --data fashion-mini --max-drop 0.5pp --out models/fashion
      hlserve compress model.onnx --data rows.npz --max-drop 1pp --out models/mine
      python -m compress run.safetensors --data a.csv --target price --max-drop 0.01 --out models/price
    """  # noqa: D301, E501 - click's mark for a block that keeps its lines
    from compress.job import prepare, read_model
    from compress.publish import publish_result, report
    from compress.search import search
    from hlserve.cli.model_rows import facts_of

    _require_writable(out)
    source = read_model(model)
    facts = facts_of(model)
    train, judge = _rows(facts, options)
    wishes = _wishes(options)
    prepared, goal = prepare(source, train, judge, wishes, progress=True)
    _say(_opening(prepared, goal, train))
    try:
        result = search(prepared, goal, seed=options["seed"], progress=True, tell=_say)
    except BoundNotMetError as error:
        raise BoundNotMetError(f"{error}. Nothing was published at {out}") from error
    origin = _origin(model, source, facts, options)
    version = publish_result(result, prepared, origin, out)
    if as_json:
        import msgspec

        found = report(result, origin) | {"published": str(out / str(version))}
        click.echo(msgspec.json.encode(found).decode())
        return
    click.echo(_closing(result))
    click.echo(f"published {out / str(version)}")


def _say(line: str) -> None:
    """One line on stderr, above a progress bar if one is shown."""
    from tqdm import tqdm

    if line:
        with tqdm.external_write_mode():
            click.echo(line, err=True)


def _require_writable(out: Path) -> None:
    """Finds out before the work, not after, that the result could not be written."""
    import os

    nearest = next(p for p in (out, *out.resolve().parents) if p.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise RepositoryError(f"--out {out}: cannot write into {nearest}")


def _rows(facts: ModelFacts, options: dict[str, Any]) -> tuple[Rows, Rows]:
    from compress.job import rows_apart
    from hlserve.cli.model_rows import load_for

    dataset = load_for(facts, options["data"], target=options["target"])
    if options["evaluation"] is not None:
        other = load_for(facts, options["evaluation"], target=options["target"])
        return dataset.train, other.train if other.test is None else other.test
    if dataset.test is not None:
        return dataset.train, dataset.test
    train, judge = rows_apart(dataset.train, seed=options["seed"])
    _say(
        f"judged on {len(judge):,} of the {len(dataset.train):,} rows, set apart now; if MODEL "
        "was trained on them, give others with --eval"
    )
    return train, judge


def _wishes(options: dict[str, Any]) -> Any:
    from compress.candidates import Plan
    from compress.job import Wishes, read_model
    from compress.recipe import Recipe

    recipe = None if options["recipe"] is None else Recipe.read(options["recipe"])
    return Wishes(
        max_drop=options["max_drop"],
        metric=options["metric"],
        output=options["output"],
        minimize=options["minimize"],
        batches=options["batches"],
        plan=Plan(ratio=options["prune"], quantize=options["quantize"], recipe=recipe),
        teacher=None if options["teacher"] is None else read_model(options["teacher"]),
        student=options["student"],
        require_proof=options["require_proof"],
        seed=options["seed"],
    )


def _opening(prepared: Search, goal: Goal, train: Rows) -> str:
    metric, n = prepared.judge.metric, len(prepared.answers)
    told = f"{metric.name} {_value(prepared.value, metric)} on {n:,} rows"
    lines = [f"original: {told}, {prepared.original.size_bytes:,} bytes"]
    if prepared.judge.note:
        lines.append(prepared.judge.note)
    least = prepared.smallest_provable
    if least is not None:
        proof = f"the smallest drop that these rows can prove is {_drop(least, metric)}"
        if least > goal.max_drop:
            if goal.require_proof:
                raise ConfigError(
                    f"{proof}, and --max-drop is {_drop(goal.max_drop, metric)}: with "
                    "--require-proof no candidate could pass; give more rows with --eval"
                )
            proof += f", more than --max-drop {_drop(goal.max_drop, metric)}: results are estimates"
        lines.append(proof)
    lines.append(f"learning from {len(train):,} rows")
    return "\n".join(lines)


def _origin(model: Path, source: Any, facts: ModelFacts, options: dict[str, Any]) -> Any:
    from compress.publish import Origin
    from hlserve.frontend import to_json
    from hlserve.nn.network import Network

    is_network = isinstance(source, Network)
    inputs = source.inputs if is_network else ()
    return Origin(
        str(model),
        options["data"],
        options["evaluation"],
        source.task if is_network else None,
        facts.class_labels,
        {entry.name: entry.units for entry in inputs if entry.units},
        None if facts.frontend is None else to_json(facts.frontend),
    )


def _closing(result: Result) -> str:
    from tabulate import tabulate

    metric = result.judge.metric
    before, after = result.original, result.best
    columns = [_column(before, metric), _column(after, metric)]
    names = [metric.name, "parameters", "bytes"]
    names += [f"latency, batch {b}" for b in before.latency]
    changes = ["", *(_times(b, a) for b, a in zip(*map(_sizes, (before, after)), strict=True))]
    changes += [f"{gain.ratio:.2f}x faster" for gain in after.speed_up.values()]
    table = tabulate(
        list(zip(names, *columns, changes, strict=True)),
        headers=["", "original", after.candidate.name, ""],
        disable_numparse=True,
        colalign=("left", "right", "right", "left"),
    )
    assert after.drop is not None
    lines = [table, "", f"drop {_interval(after.drop, metric)}; {_standing(result)}"]
    lines += [f"note: {note}" for note in result.notes]
    return "\n".join(lines)


def _column(verdict: Verdict, metric: Metric) -> list[str]:
    values = [_value(verdict.value, metric), *(f"{size:,}" for size in _sizes(verdict))]
    return values + [f"{1e6 * latency.p50_s:,.0f} us" for latency in verdict.latency.values()]


def _sizes(verdict: Verdict) -> tuple[int, int]:
    return verdict.candidate.parameters, verdict.candidate.size_bytes


def _times(before: int, after: int) -> str:
    return f"{before / after:.2f}x smaller" if after < before else ""


def _standing(result: Result) -> str:
    asked = _drop(result.goal.max_drop, result.judge.metric)
    if result.is_proven:
        return f"proven to be at most {asked} (one-sided, 95 %)"
    return f"estimated, not proven, to be at most {asked}"


def _interval(drop: Drop, metric: Metric) -> str:
    return (
        f"{_drop(drop.estimate, metric)}, at most {_drop(drop.upper, metric)} on {drop.rows:,} rows"
    )


def _drop(value: float, metric: Metric) -> str:
    return f"{100 * value:.2f} pp" if metric.is_share else f"{value:.4g}"


def _value(value: float, metric: Metric) -> str:
    return f"{100 * value:.2f} %" if metric.is_share else f"{value:.6g}"
