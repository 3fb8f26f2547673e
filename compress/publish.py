"""What the search found, written into the model repository with everything about its making."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from compress.evaluate import fixed_batch, take_rows
from compress.lock import Environment, Ingredients, Lock, rows_sha256
from compress.recipe import Recipe
from compress.search import Result, Search, Verdict
from compress.session import Port, Session
from hlserve import __version__, datatypes
from hlserve.datasets import Rows
from hlserve.nn.param import Array
from hlserve.repository import Metadata, TensorSpec, publish

GOLDEN_ROWS = 4
REPORT_FILE = "report.json"
REPORT_SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Origin:
    """What the result was made from.

    Attributes:
        file: the model's file.
        data, evaluation: the names or paths of the rows; None where there were none of their own.
        task, class_labels, units: of the original, where they are known.
        frontend: what makes the original's inputs of texts or sounds, as JSON; None where they
            are numbers.
        ingredients: for the lock; what the search knows is filled in by it.
    """

    file: str
    data: str
    evaluation: str | None = None
    task: str | None = None
    class_labels: tuple[str, ...] | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    frontend: dict[str, Any] | None = None
    ingredients: Ingredients = field(default_factory=Ingredients)


def publish_result(result: Result, prepared: Search, origin: Origin, out: Path) -> int:
    """Publishes ``result.best`` as the next version at ``out``; answers its number.

    Raises:
        RepositoryError: see ``hlserve.repository.publish``; nothing half-written is left.
    """
    model = result.best.candidate.model
    session = Session(model)
    found = report(result, origin)
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
        golden=_golden(session, prepared.feeds),
        recipe_lock=lock(result, prepared, origin),
        report={REPORT_FILE: msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n"},
    )


def report(result: Result, origin: Origin) -> dict[str, Any]:
    """Everything that was measured, as JSON can hold it.

    Accuracies and drops are in the metric's unit, latencies in seconds a run.
    """
    return {
        "schema_version": REPORT_SCHEMA_VERSION,
        "model": origin.file,
        "data": origin.data,
        "evaluation": origin.evaluation or origin.data,
        "rows": result.best.drop.rows if result.best.drop else 0,
        "metric": result.judge.metric.name,
        "output": result.judge.output,
        "max_drop": result.goal.max_drop,
        "smallest_provable_drop": result.smallest_provable,
        "is_proven": result.is_proven,
        "minimize": result.goal.minimize,
        "seed": result.seed,
        "original": described(result.original),
        "best": described(result.best),
        "tried": [described(verdict) for verdict in result.tried],
        "notes": list(result.notes),
    }


def described(verdict: Verdict) -> dict[str, Any]:
    """One model's row of the report."""
    drop = verdict.drop
    return {
        "name": verdict.candidate.name,
        "value": verdict.value if isfinite(verdict.value) else None,
        "drop": None if drop is None else drop.estimate,
        "drop_upper": None if drop is None or not isfinite(drop.upper) else drop.upper,
        "parameters": verdict.candidate.parameters,
        "size_bytes": verdict.candidate.size_bytes,
        "latency_s": {str(b): latency.p50_s for b, latency in verdict.latency.items()},
        "speed_up": {str(b): gain.ratio for b, gain in verdict.speed_up.items()},
        "speed_up_lower": {str(b): gain.lower for b, gain in verdict.speed_up.items()},
        "refusal": verdict.refusal,
        "steps": [
            {
                "technique": step.technique,
                "settings": step.settings,
                "parameters": step.parameters,
                "macs": step.macs,
                "size_bytes": step.size_bytes,
                "seconds": round(step.seconds, 3),
            }
            for step in verdict.candidate.steps
        ],
    }


def lock(result: Result, prepared: Search, origin: Origin) -> str:
    """How the version was made, as TOML: what went in, with what, and the steps of its recipe."""
    ingredients = replace(
        origin.ingredients,
        model=origin.file,
        data=origin.data,
        evaluation=origin.evaluation,
        evaluation_sha256=rows_sha256(Rows(prepared.feeds, prepared.labels)),
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
    return Lock(Environment.here(), ingredients, recipe).to_toml()


# ----- below


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
