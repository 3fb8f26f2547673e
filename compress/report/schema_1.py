"""Reports of schema version 1 as those of today: numbers that became records of several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SHARES = ("accuracy", "f1", "roc_auc", "agreement", "label-agreement")
_ERRORS = ("mse", "mae")


def upgraded(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report with today's keys; what it never told, such as layers, stays missing."""
    found = dict(report)
    name = report.get("metric")
    if isinstance(name, str):
        found["metric"] = {
            "name": name,
            "is_share": name in _SHARES,
            "higher_is_better": name not in _ERRORS,
        }
    if isinstance(report.get("rows"), int):
        found["rows"] = {"search": report["rows"]}
    for key in ("original", "best"):
        if isinstance(report.get(key), dict):
            found[key] = _row(report[key])
    if isinstance(report.get("tried"), list):
        found["tried"] = [_row(row) if isinstance(row, dict) else row for row in report["tried"]]
    return found


# ----- below


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """One model: latencies were medians, and a speed-up and its bound stood apart."""
    found = {key: value for key, value in row.items() if key != "speed_up_lower"}
    for key, name in (("latency_s", "p50"), ("speed_up", "ratio")):
        values = row.get(key)
        if isinstance(values, dict):
            found[key] = {b: v if isinstance(v, dict) else {name: v} for b, v in values.items()}
    lower = row.get("speed_up_lower")
    if isinstance(lower, dict) and isinstance(found.get("speed_up"), dict):
        for batch, bound in lower.items():
            found["speed_up"].setdefault(batch, {})["lower"] = bound
    return found
