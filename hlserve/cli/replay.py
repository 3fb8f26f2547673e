"""``hlserve replay``: makes a published version again from its lock, and compares."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hlserve.cli import EXIT_DONE, EXIT_FAILED
from hlserve.errors import RepositoryError

if TYPE_CHECKING:
    from compress.lock import Lock
    from compress.replay import Replayed


@click.command(name="replay")
@click.argument("lock", type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), help="The original, where it moved.")
@click.option("--data", metavar="NAME|PATH", help="The rows to learn from, where they moved.")
@click.option("--teacher", type=click.Path(path_type=Path), help="The teacher, where it moved.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the ONNX file there.")
@click.option("--trust", is_flag=True, help="Accept a lock that names code of its own.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def command(lock: Path, out: Path | None, trust: bool, as_json: bool, **moved: Any) -> int:
    """Make a version again from LOCK, its recipe.lock, and say whether its bytes are the same.

    The original, its teacher and the rows are looked for where the lock names them, from the
    current folder or from the lock's, and their digests are compared first. Nothing is written
    without --out. The exit code is 0 where the bytes are identical, 1 where they are not. The
    same machine gives the same bytes; another processor or other versions, which are said, may
    differ in last bits.

    \b
    Examples:
      hlserve replay models/fashion/3/recipe.lock
      hlserve replay recipe.lock --model net.safetensors --data rows.npz --out again.onnx
    """  # noqa: D301 - click's mark for a block that keeps its lines
    from compress.lock import Lock
    from compress.replay import require_trust

    read = Lock.read(lock)
    require_trust(read, is_trusted=trust)
    found = _replayed(read, lock, moved)
    if out is not None:
        _write(out, found.model)
    if as_json:
        _print_json(found, out)
    else:
        _print(found, out)
    return EXIT_DONE if found.is_identical else EXIT_FAILED


def _replayed(lock: Lock, path: Path, moved: dict[str, Any]) -> Replayed:
    from compress.job import read_model
    from compress.replay import located, replay, require_file
    from hlserve.cli.model_rows import facts_of, load_for

    made_of = lock.ingredients
    model = moved["model"] or located(made_of.model, path)
    require_file(model, made_of.model_sha256)
    teacher = None
    if made_of.teacher is not None:
        teacher = moved["teacher"] or located(made_of.teacher, path)
        require_file(teacher, made_of.teacher_sha256 or "")
    data = moved["data"] or _data_of(made_of.data, path)
    rows = load_for(facts_of(model), data, target=made_of.target).train
    return replay(
        lock,
        read_model(model),
        rows,
        teacher=None if teacher is None else read_model(teacher),
        progress=True,
    )


def _data_of(name: str, lock: Path) -> str:
    """A path from the lock's folder, where it is one; else what the lock names."""
    beside = lock.parent / name
    return str(beside) if beside.exists() and not Path(name).exists() else name


def _write(out: Path, model: bytes) -> None:
    from hlserve.nn.atomic_file import write_atomically

    try:
        write_atomically(out, model)
    except OSError as error:
        raise RepositoryError(f"--out {out} cannot be written: {error.strerror}") from error


def _print(found: Replayed, out: Path | None) -> None:
    for warning in found.warnings:
        click.echo(f"warning: {warning}; last bits may differ", err=True)
    word = "identical" if found.is_identical else "different"
    click.echo(f"{word}: {len(found.model):,} bytes, sha256 {found.sha256}")
    if not found.is_identical:
        click.echo(f"the lock's file has  sha256 {found.expected_sha256}")
    if out is not None:
        click.echo(f"written to {out}")


def _print_json(found: Replayed, out: Path | None) -> None:
    import msgspec

    told = {
        "is_identical": found.is_identical,
        "sha256": found.sha256,
        "expected_sha256": found.expected_sha256,
        "size_bytes": len(found.model),
        "warnings": list(found.warnings),
        "written": None if out is None else str(out),
    }
    click.echo(msgspec.json.encode(told).decode())
