"""``hlserve compress``, which is ``python -m compress`` too: a smaller model, published."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hlserve.errors import BoundNotMetError, RepositoryError

if TYPE_CHECKING:
    from compress.findings import Origin
    from compress.job import Effort
    from compress.lock import Ingredients
    from compress.search import Result, Search
    from compress.splits import Split
    from hlserve.cli.model_rows import ModelFacts

_MAX_BATCH = 65536
MOST_JOBS = 4  # by default: each holds the rows in memory of its own


def batch_list(_ctx: click.Context, _option: click.Parameter, text: str) -> tuple[int, ...]:
    """Batch sizes of ``1,32``; a click callback."""
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
    "--max-drop",
    required=True,
    help="What the metric may lose, in its own unit: 0.005, or 0.5pp for a share such as accuracy.",
)
@click.option(
    "--metric",
    metavar="NAME|MODULE:FUNCTION",
    help="accuracy, f1, roc_auc, mse, mae, agreement, label-agreement, cosine, or a function of "
    "yours that takes outputs and labels.  [default: by the labels]",
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
    callback=batch_list,
    help="Rows a run, at which latency is measured.",
)
@click.option(
    "--minimize",
    type=click.Choice(["latency", "bytes", "macs"]),
    default="latency",
    show_default=True,
    help="With bytes, the smallest file wins even where it is slower.",
)
@click.option(
    "--provider",
    type=click.Choice(["cpu", "cuda", "tensorrt"]),
    default="cpu",
    show_default=True,
    help="What the model will run on; latency is measured there.",
)
@click.option(
    "--budget",
    default="10m",
    show_default=True,
    metavar="TIME",
    help="After which nothing more is trained: 90s, 10m, 2h.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Trainings at a time, each in a process.  [default: one a core, up to 4]",
)
@click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    help="A TOML file of steps to take instead of searching; docs/compressing.md shows one.",
)
@click.option(
    "--prune",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Remove this share of the neurons and filters, and try no other widths or low rank.",
)
@click.option(
    "--quantize",
    type=click.Choice(["int8", "none"]),
    help="int8: no results in floats; none: no integers.",
)
@click.option(
    "--teacher", type=click.Path(path_type=Path), help="Whose answers are imitated, a model file."
)
@click.option("--student", metavar="SPEC", help="A small architecture to distil into: mlp:64.")
@click.option(
    "--require-proof", is_flag=True, help="Refuse what keeps the bound by its estimate alone."
)
@click.option(
    "--report",
    "report_folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write report.html, report.json and MODEL_CARD.md there too.",
)
@click.option("--dry-run", is_flag=True, help="Check everything, say what would be tried, stop.")
@click.option("--resume", is_flag=True, help="Go on with what an interrupted run has trained.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(model: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Make MODEL smaller and faster, and publish it at --out if it is as good as before.

    MODEL is a checkpoint of `hlserve train` (.safetensors) or any ONNX file; texts, sounds,
    images and tables go through its own front end, which is published with the result. Candidates are
    judged on --eval; without it on the data's own test rows, or on rows set apart. Some of them
    have no part in the choice and are looked at once, at the end. Without labels the metric is
    agreement with the original. Ctrl-C keeps the best so far. If nothing passes, the original is
    kept and the exit code is 3.

    \b
    Examples:
      hlserve compress runs/fashion.safetensors --data fashion-mini --max-drop 0.5pp --out models/fashion
      hlserve compress model.onnx --data rows.npz --max-drop 1pp --out models/mine
      python -m compress run.safetensors --data a.csv --target price --max-drop 0.01 --out models/price
    """  # noqa: D301, E501 - click's mark for a block that keeps its lines
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no stubs

    from compress.clock import Clock, parse_duration
    from compress.job import prepare, read_model
    from compress.report.folder import require_report_folder
    from compress.search import search
    from compress.trainee import BLAS_THREADS
    from hlserve.cli.compression_summary import opening
    from hlserve.cli.model_rows import facts_of

    _require_writable(out)
    if options["report_folder"] is not None:
        require_report_folder(options["report_folder"])
    clock = Clock(parse_duration(options["budget"]))
    source, facts = read_model(model), facts_of(model)
    split, n_rows = _split(facts, options)
    effort = _effort(model, out, options)
    with threadpool_limits(limits=BLAS_THREADS, user_api="blas"):  # so that replay gets the bits
        prepared, goal = prepare(source, split, _wishes(options), effort)
        _say(opening(prepared, goal, split))
        if options["dry_run"]:
            click.echo(f"dry run: nothing was trained, nothing published at {out}")
            return
        try:
            result = search(
                prepared, goal, clock=clock, seed=options["seed"], progress=True, tell=_say
            )
        except BoundNotMetError as error:
            shutil.rmtree(effort.folder, ignore_errors=True)
            raise BoundNotMetError(f"{error}. Nothing was published at {out}") from error
        origin = _origin(model, source, facts, options, _ingredients(model, options, split, n_rows))
        _publish(result, prepared, origin, out, options["report_folder"], as_json=as_json)
    if not result.is_interrupted:
        shutil.rmtree(effort.folder, ignore_errors=True)


def _publish(
    result: Result,
    prepared: Search,
    origin: Origin,
    out: Path,
    folder: Path | None,
    *,
    as_json: bool,
) -> None:
    from compress.findings import findings
    from compress.publish import publish_result
    from compress.report.folder import report_files, write_report
    from hlserve.cli.compression_summary import closing

    found = findings(result, prepared, origin)
    files = report_files(found)
    version = publish_result(result, prepared, origin, out, found=found, report=files)
    if folder is not None:
        write_report(files, folder)
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(found | {"published": str(out / str(version))}).decode())
        return
    shares = found["original"]["int8_share"], found["best"]["int8_share"]
    click.echo(closing(result, shares))
    click.echo(f"published {out / str(version)}")
    if folder is not None:
        click.echo(f"report {folder / 'report.html'}")


def _say(line: str) -> None:
    """One line on stderr, above a progress bar if one is shown."""
    from tqdm import tqdm

    if line:
        with tqdm.external_write_mode():
            click.echo(line, err=True)


def _require_writable(out: Path) -> None:
    """Finds out before the work, not after, that the result could not be written."""
    nearest = next(p for p in (out, *out.resolve().parents) if p.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise RepositoryError(f"--out {out}: cannot write into {nearest}")


def _split(facts: ModelFacts, options: dict[str, Any]) -> tuple[Split, int]:
    """The rows by purpose, and how many the data has to train on before any are set apart."""
    from compress.splits import three_way
    from hlserve.cli.model_rows import load_for

    dataset = load_for(facts, options["data"], target=options["target"])
    data, evaluation = options["data"], options["evaluation"]
    judge, test = dataset.test, None
    names = (data, f"the test rows of {data}", f"the test rows of {data}")
    if evaluation is not None:
        other = load_for(facts, evaluation, target=options["target"])
        judge, test = (other.train, dataset.test) if other.test is None else (other.test, None)
        named = evaluation if other.test is None else f"the test rows of {evaluation}"
        names = (data, named, names[2])
    split = three_way(dataset.train, judge, test, seed=options["seed"], names=names)
    return split, len(dataset.train)


def _effort(model: Path, out: Path, options: dict[str, Any]) -> Effort:
    from compress.job import Effort

    jobs = options["jobs"] or min(MOST_JOBS, len(os.sched_getaffinity(0)))
    return Effort(_search_folder(model, out), jobs, options["resume"], progress=True)


def _search_folder(model: Path, out: Path) -> Path:
    """Where an interrupted search is kept: hidden beside MODEL, by the name of the result."""
    beside = model.parent if os.access(model.parent, os.W_OK) else Path.cwd()
    return beside / f".{out.name}.search"


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
        provider=options["provider"],
        seed=options["seed"],
    )


def _origin(
    model: Path, source: Any, facts: ModelFacts, options: dict[str, Any], made_of: Ingredients
) -> Origin:
    from compress.findings import Origin
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
        made_of,
    )


def _ingredients(model: Path, options: dict[str, Any], split: Split, n_rows: int) -> Ingredients:
    """What only the command line knows of what went in."""
    from compress.digests import file_sha256, rows_sha256
    from compress.lock import Ingredients

    teacher = options["teacher"]
    return Ingredients(
        model_sha256=file_sha256(model),
        data_sha256=rows_sha256(split.train),
        target=options["target"],
        rows_apart=n_rows - len(split.train),
        split_seed=options["seed"],
        teacher=None if teacher is None else str(teacher),
        teacher_sha256=None if teacher is None else file_sha256(teacher),
        student=options["student"],
        provider=options["provider"],
    )
