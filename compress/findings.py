"""Everything that a search found, as JSON can hold it: what the report is drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from compress.arithmetic import arithmetic
from compress.changes import layer_changes
from compress.latency import Latency
from compress.lock import Ingredients
from compress.machine import cores, processor
from compress.metric import top_class
from compress.model_file import weight_formats
from compress.report.classes import class_changes
from compress.report.compression import SCHEMA_VERSION
from compress.search import LastLook, Result, Search
from compress.session import runtime
from compress.sizes import memory_bytes, packed_bytes
from compress.verdict import Verdict
from hlserve.nn.param import Array


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


def findings(result: Result, prepared: Search, origin: Origin) -> dict[str, Any]:
    """Everything that was measured.

    Accuracies and drops are in the metric's unit, latencies in seconds a run.
    """
    metric = result.judge.metric
    test = prepared.test
    best = described(result.best, prepared)
    classes = _classes(result, prepared, origin.class_labels)
    return {
        "schema_version": SCHEMA_VERSION,
        "model": origin.file,
        "data": origin.data,
        "evaluation": origin.evaluation or origin.data,
        "rows": {
            "train": prepared.n_train,
            "search": len(prepared.bench.answers),
            "test": 0 if test is None else len(test.answers),
        },
        "metric": {
            "name": metric.name,
            "is_share": metric.is_share,
            "higher_is_better": metric.higher_is_better,
        },
        "output": result.judge.output,
        "max_drop": result.goal.max_drop,
        "minimize": result.goal.minimize,
        "provider": origin.ingredients.provider,
        "batches": list(result.best.latency),
        "seed": result.seed,
        "seconds": round(result.seconds, 1),
        "is_proven": result.is_proven,
        "smallest_provable_drop": result.smallest_provable,
        "comparisons": sum(verdict.drop is not None for verdict in result.tried),
        "machine": _machine(),
        "original": described(result.original, prepared)
        | _costs(result.original, prepared.bench.feeds),
        "best": best | _costs(result.best, prepared.bench.feeds),
        "tried": _tried(result, prepared, best),
        "pareto": [verdict.candidate.name for verdict in result.pareto],
        "test": None if result.test is None else _test(result.test),
        "sensitivity": prepared.sensitivity(_kept_float(result.best)),
        "layers": _layers(result),
        "calibration": prepared.calibration(result.best.candidate),
        "classes": classes,
        "warnings": [] if classes is None else classes.pop("warnings"),
        "notes": list(result.notes),
    }


def described(verdict: Verdict, prepared: Search, *, is_close: bool = True) -> dict[str, Any]:
    """One model's row of the report.

    An interval takes a function of the user's hundreds of evaluations: only a model that
    ``is_close`` to being chosen gets one then.
    """
    has_interval = is_close or prepared.judge.metric.whole is None
    drop, candidate = verdict.drop, verdict.candidate
    return {
        "name": candidate.name,
        "family": candidate.family,
        "value": _finite(verdict.value),
        "interval": _interval(verdict, prepared) if has_interval else None,
        "drop": None if drop is None else drop.estimate,
        "drop_upper": None if drop is None else _finite(drop.upper),
        "parameters": candidate.parameters,
        "macs": candidate.macs,
        "size_bytes": candidate.size_bytes,
        "latency_s": {str(b): _latency(found) for b, found in verdict.latency.items()},
        "speed_up": {
            str(b): {"ratio": gain.ratio, "lower": gain.lower}
            for b, gain in verdict.speed_up.items()
        },
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
            for step in candidate.steps
        ],
    }


# ----- below


def _tried(result: Result, prepared: Search, best: dict[str, Any]) -> list[dict[str, Any]]:
    """Every candidate's row; that of the chosen one is known already."""
    close = {id(verdict) for verdict in result.pareto}
    return [
        best if v is result.best else described(v, prepared, is_close=id(v) in close)
        for v in result.tried
    ]


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def _interval(verdict: Verdict, prepared: Search) -> list[float] | None:
    if verdict.answers is None:
        return None
    return list(prepared.judge.interval(verdict.answers, prepared.bench.targets))


def _latency(latency: Latency) -> dict[str, float | None]:
    lower, upper = latency.interval_s
    return {"p50": latency.p50_s, "p95": _finite(latency.p95_s), "lower": lower, "upper": upper}


def _costs(verdict: Verdict, feeds: Mapping[str, Array]) -> dict[str, Any]:
    """What is measured of the two models that matter only: it takes seconds each."""
    candidate = verdict.candidate
    counted = arithmetic(candidate.model, feeds)
    found: dict[str, Any] = {
        "packed_bytes": packed_bytes(candidate.model),
        "memory_bytes": memory_bytes(candidate.model),
        "int8_share": None if counted is None else counted.int8_share,
    }
    if candidate.macs is None and counted is not None:
        found["macs"] = counted.in_floats + counted.in_integers
    return found


def _machine() -> dict[str, Any]:
    cpu = processor()
    return {
        "cpu": cpu.model,
        "flags": list(cpu.flags or ()),
        "cores": cores().usable,
        "onnxruntime": runtime()[0],
    }


def _kept_float(verdict: Verdict) -> tuple[str, ...]:
    kept = [step.settings.get("keep_float", ()) for step in verdict.candidate.steps]
    return tuple(name for names in kept for name in names)


def _classes(
    result: Result, prepared: Search, labels: tuple[str, ...] | None
) -> dict[str, Any] | None:
    """Class by class, on the rows that chose; None where the answers are no classes."""
    bench, after = prepared.bench, result.best.answers
    if not prepared.judge.metric.is_of_classes or after is None:
        return None
    truth, before = bench.targets, top_class(bench.answers)
    if truth.ndim != 1 or before.ndim != 1:
        return None
    n = int(max(truth.max(), before.max(), top_class(after).max())) + 1
    names = labels if labels is not None and len(labels) >= n else [str(i) for i in range(n)]
    return class_changes(truth, before, top_class(after), names, max_drop=result.goal.max_drop)


def _test(look: LastLook) -> dict[str, Any]:
    return {
        "rows": look.rows,
        "original": look.original,
        "best": look.best,
        "original_interval": list(look.original_interval),
        "best_interval": list(look.best_interval),
        "drop": look.drop.estimate,
        "drop_upper": _finite(look.drop.upper),
    }


def _layers(result: Result) -> list[dict[str, Any]]:
    before, after = result.original.candidate.network, result.best.candidate.network
    if before is None or after is None:
        return []
    best = result.best.candidate
    changes = layer_changes(before, after, best.steps, weight_formats(best.model))
    return [change.described() for change in changes]
