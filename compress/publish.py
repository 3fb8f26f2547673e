"""What the search found, written into the model repository with everything about its making."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from compress.digests import rows_sha256
from compress.evaluate import fixed_batch, take_rows
from compress.findings import Origin
from compress.lock import Environment, Lock
from compress.recipe import Recipe
from compress.search import Result, Search
from compress.session import Port, Session
from compress.trainee import BLAS_THREADS
from hlserve import __version__, datatypes
from hlserve.datasets import Rows
from hlserve.nn.param import Array
from hlserve.repository import Metadata, TensorSpec, publish

GOLDEN_ROWS = 4


def publish_result(
    result: Result,
    prepared: Search,
    origin: Origin,
    out: Path,
    *,
    found: Mapping[str, Any],
    report: Mapping[str, bytes],
) -> int:
    """Publishes ``result.best`` as the next version at ``out``; answers its number.

    Args:
        result: of the search.
        prepared: the search itself.
        origin: what it was made from.
        out: the model's folder, ROOT/NAME.
        found: what ``findings`` says of the result.
        report: drawn from it, see ``report.folder.report_files``; stands beside the model.

    Raises:
        RepositoryError: see ``hlserve.repository.publish``; nothing half-written is left.
    """
    model = result.best.candidate.model
    session = Session(model)
    described = Metadata(
        inputs=tuple(_spec(port, origin.units.get(port.name)) for port in session.inputs),
        outputs=tuple(_spec(port, None) for port in session.outputs),
        task=origin.task,
        class_labels=origin.class_labels,
        producer=f"hlserve {__version__}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        sha256=hashlib.sha256(model).hexdigest(),
        frontend=origin.frontend,
        source={"file": Path(origin.file).name, "sha256": _sha256(prepared.original.model)},
        report={
            "candidate": result.best.candidate.name,
            "metric": result.judge.metric.name,
            "is_proven": result.is_proven,
            "original": found["original"],
            "best": found["best"],
        },
    )
    return publish(
        out,
        model=model,
        metadata=described,
        golden=_golden(session, prepared.bench.feeds),
        recipe_lock=lock(result, prepared, origin),
        report=report,
    )


def lock(result: Result, prepared: Search, origin: Origin) -> str:
    """How the version was made, as TOML: what went in, with what, and the steps of its recipe."""
    ingredients = replace(
        origin.ingredients,
        model=origin.file,
        data=origin.data,
        evaluation=origin.evaluation,
        evaluation_sha256=rows_sha256(Rows(prepared.bench.feeds, _labels(prepared))),
        result_sha256=_sha256(result.best.candidate.model),
        seed=result.seed,
        output=result.judge.output,
        metric=result.judge.metric.name,
        max_drop=result.goal.max_drop,
        minimize=result.goal.minimize,
        batches=result.goal.batches,
        trials=len(result.tried),
    )
    recipe = Recipe.from_toml(result.best.candidate.recipe)
    return Lock(Environment.here(blas_threads=BLAS_THREADS), ingredients, recipe).to_toml()


# ----- below


def _labels(prepared: Search) -> Array | None:
    return prepared.bench.targets if prepared.judge.metric.needs_labels else None


def _spec(port: Port, units: str | None) -> TensorSpec:
    names = {row.dtype: row.name for row in datatypes.DATATYPES}
    shape = tuple(size if isinstance(size, int) else -1 for size in port.shape)
    return TensorSpec(port.name, names[np.dtype(port.dtype)], shape, units)


def _golden(session: Session, feeds: Mapping[str, Array]) -> dict[str, Array] | None:
    """Rows with their answers; None where the model answers differently each time."""
    rows = take_rows(feeds, np.arange(fixed_batch(session) or GOLDEN_ROWS))
    first, second = session.run(rows), session.run(rows)
    is_repeatable = all(first[name].tobytes() == second[name].tobytes() for name in first)
    arrays = {f"input:{name}": array for name, array in rows.items()}
    arrays |= {f"output:{name}": array for name, array in first.items()}
    is_numeric = all(array.dtype.kind in "biuf" for array in arrays.values())
    return arrays if is_repeatable and is_numeric else None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
