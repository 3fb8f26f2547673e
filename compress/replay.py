"""A version made again from its lock, to see whether the same bytes come out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no stubs

from compress.digests import file_sha256, rows_sha256
from compress.distillation import Distill
from compress.evaluate import bind_rows
from compress.export import Model
from compress.lock import Environment, Ingredients, Lock
from compress.onnx_import import IMPORT_ROWS, import_whole
from compress.remake import remake
from compress.session import Session
from compress.splits import classes_of
from compress.student import student_for
from compress.teacher import learning_data, teacher_logits
from hlserve.datasets import Rows
from hlserve.errors import ConfigError, DataError, ModelFileError
from hlserve.nn.network import Network
from hlserve.nn.param import Array
from hlserve.nn.split import validation_split


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came out.

    Attributes:
        model: the ONNX file.
        sha256, expected_sha256: its digest, and the lock's.
        warnings: what differs from the machine of the lock: with it, last bits may.
    """

    model: bytes
    sha256: str
    expected_sha256: str
    warnings: tuple[str, ...]

    @property
    def is_identical(self) -> bool:
        """Whether it is the lock's file, byte for byte."""
        return self.sha256 == self.expected_sha256


def replay(
    lock: Lock,
    source: Model,
    rows: Rows,
    *,
    teacher: Model | None = None,
    progress: bool = False,
) -> Replayed:
    """Follows the lock's recipe with its seeds and number of BLAS threads.

    Args:
        lock: see ``compress.lock``.
        source: the model that it names, read; see ``located`` and ``require_file``.
        rows: the training rows of its data, before any are set apart.
        teacher: the one that it names, read.
        progress: whether a terminal shows bars.

    Raises:
        DataError: the rows are not those that were learned from.
        CompressionError: a step does not fit.
    """
    made_of = lock.ingredients
    train = learning_rows(rows, made_of)
    threads = lock.environment.blas_threads
    with threadpool_limits(limits=threads, user_api="blas"):
        model = _remade(lock, source, train, teacher or source, progress=progress)
    return Replayed(
        model,
        hashlib.sha256(model).hexdigest(),
        made_of.result_sha256,
        tuple(lock.environment.differences(Environment.here())),
    )


def located(path: str, lock: Path) -> Path:
    """A file that the lock names: from the current folder, from the lock's, or beside the lock.

    Raises:
        ModelFileError: it is in none of them.
    """
    places = (Path(path), lock.parent / path, lock.parent / Path(path).name)
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ModelFileError(
            f"{lock} was made from {path!r}, which is neither in the current folder nor beside "
            "the lock; name the file with --model (or --teacher)"
        )
    return found


def require_file(path: Path, sha256: str) -> None:
    """Refuses a file that is not the lock's.

    Raises:
        ModelFileError: it has other bytes.
    """
    actual = file_sha256(path)
    if actual != sha256:
        raise ModelFileError(
            f"{path} is not the file that the lock was made from: sha256 {actual[:16]}..., "
            f"expected {sha256[:16]}..."
        )


def require_trust(lock: Lock, *, is_trusted: bool) -> None:
    """Refuses a lock that names code of its own, unless the user trusts it.

    Raises:
        ConfigError: it does, and is not trusted.
    """
    metric = lock.ingredients.metric or ""
    if ":" in metric and not is_trusted:
        raise ConfigError(
            f"the lock names code of its own, the metric {metric!r}; read it, and give --trust "
            "if you trust it"
        )


def learning_rows(rows: Rows, made_of: Ingredients) -> Rows:
    """The rows that were learned from: all, or those that were not set apart.

    Raises:
        DataError: they are not the lock's.
    """
    apart = made_of.rows_apart
    if apart:
        if apart >= len(rows):
            raise DataError(
                f"{made_of.data} holds {len(rows):,} rows; {apart:,} were set apart when the lock "
                "was made, which leaves none to learn from"
            )
        labels = classes_of(rows)
        seed = made_of.split_seed
        kept, _ = validation_split(len(rows), apart / len(rows), seed=seed, labels=labels)
        rows = rows.take(kept)
    if rows_sha256(rows) != made_of.data_sha256:
        raise DataError(
            f"the rows of {made_of.data} are not those that the lock was made from: {len(rows):,} "
            "rows to learn from, with another digest; name the right ones with --data"
        )
    return rows


# ----- below


def _remade(lock: Lock, source: Model, train: Rows, teacher: Model, *, progress: bool) -> bytes:
    made_of, recipe = lock.ingredients, lock.recipe
    seed = made_of.seed
    root = source
    if made_of.student is not None:
        root = student_for(made_of.student, source, train, seed=seed)
    if recipe.steps and not isinstance(root, Network):
        some = bind_rows(Session(root.SerializeToString()), train.take(slice(0, IMPORT_ROWS)))
        root = import_whole(root, some, labels=train.y).network
    if not isinstance(root, Network):
        feeds = bind_rows(Session(root.SerializeToString()), train)
        return remake(root, recipe, feeds=feeds, seed=seed).model
    has_teacher = any(isinstance(step, Distill) for step in recipe.steps)
    logits: Array | None = teacher_logits(teacher, train, made_of.output) if has_teacher else None
    data = learning_data(root, train, logits, seed=seed, progress=progress)
    return remake(root, recipe, data, seed=seed).model
