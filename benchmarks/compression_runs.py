"""Compressed models for the benchmark's table: ours and the peers', each made once and kept.

A part is kept in a folder of its own with a fingerprint of all that went into it, so that a run
that was cut off goes on, and one of other code, data or wishes begins anew.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compression_bases import ROOT
from compress.evaluate import bind_rows
from compress.job import Model, compress
from compress.recipe import Recipe
from compress.session import Session
from hlserve.datasets import Rows
from hlserve.errors import BoundNotMetError

PEERS = {"ort": ("ort", "ort-tuned"), "nncf": ("nncf", "nncf-control"), "none": ()}
PEER_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
PEER_TIMEOUT_S = 600
CALIBRATION_ROWS = 512
ANY_DROP = "99pp"  # a recipe that was found before is made again, whatever comes of it


@dataclass(frozen=True, slots=True)
class Task:
    """One model to compress, and everything that decides what comes of it.

    Attributes:
        original: the float model as an ONNX file.
        model: what the search is given: the network's checkpoint, or the ONNX model.
        train, validation: rows to learn from and rows to judge with.
        wishes: arguments of ``compress.compress``.
    """

    name: str
    original: bytes
    model: Model | Path
    train: Rows
    validation: Rows
    wishes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Made:
    """What a search handed back.

    Attributes:
        model: the ONNX file; the original's where nothing passed.
        name: which candidate it is.
        recipe: its steps as TOML; empty for the original.
        refusal: why nothing passed; empty where something did.
        said_drop, said_speed_up: as the search measured them, by batch size in words.
        seconds: of the whole search.
        seed: of every random choice.
        is_searched: False where a recipe that another seed found was made again.
    """

    model: bytes
    name: str
    recipe: str
    refusal: str
    said_drop: float
    said_speed_up: dict[str, float]
    seconds: float
    seed: int
    is_searched: bool


@dataclass(frozen=True, slots=True)
class Store:
    """Where finished parts are kept.

    Attributes:
        folder: of this benchmark.
        with_code: whether what other code made is made again.
    """

    folder: Path
    with_code: bool = True


def searched(task: Task, seed: int, store: Store) -> Made:
    """The whole automatic search."""
    return _kept(task, seed, store, None)


def made_again(task: Task, recipe: str, seed: int, store: Store) -> Made:
    """The recipe alone, with another seed; the validation rows refuse nothing."""
    return _kept(task, seed, store, recipe)


def peer_file(task: Task, peer: str, max_drop: float, store: Store) -> Path | str:
    """The peer's ONNX file, or what it ended with."""
    digest = hashlib.sha256(task.original).hexdigest()[:12]
    folder = store.folder / "peers" / f"{task.name}-{digest}-{max_drop:g}"
    out, failed = folder / f"{peer}.onnx", folder / f"{peer}.txt"
    if failed.exists():
        return failed.read_text()
    if not out.exists():
        folder.mkdir(parents=True, exist_ok=True)
        error = _run_peer(task, peer, max_drop, out)
        if error:
            out.unlink(missing_ok=True)
            failed.write_text(error)
            return error
    return out


def code_digest() -> str:
    """Of every file that decides what a search finds."""
    digest = hashlib.sha256()
    for package in ("compress", "hlserve/nn"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


# ----- below


def _kept(task: Task, seed: int, store: Store, recipe: str | None) -> Made:
    print_ = _fingerprint(task, seed, store, recipe)
    folder = (
        store.folder / "results" / task.name / f"{'search' if recipe is None else 'again'}-{seed}"
    )
    facts = folder / "made.json"
    if facts.exists():
        known = json.loads(facts.read_text())
        if known.pop("fingerprint") == print_:
            return Made(model=(folder / "model.onnx").read_bytes(), **known)
    made = _make(task, seed, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    facts.unlink(missing_ok=True)
    (folder / "model.onnx").write_bytes(made.model)
    told = {name: value for name, value in asdict(made).items() if name != "model"}
    facts.write_text(json.dumps(told | {"fingerprint": print_}, indent=1))
    return made


def _fingerprint(task: Task, seed: int, store: Store, recipe: str | None) -> str:
    parts = [hashlib.sha256(task.original).hexdigest(), str(seed), recipe or ""]
    parts += [f"{name}={value!r}" for name, value in sorted(task.wishes.items())]
    parts += [_rows_digest(rows) for rows in (task.train, task.validation)]
    if store.with_code:
        parts.append(code_digest())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _rows_digest(rows: Rows) -> str:
    digest = hashlib.sha256()
    for array in (*rows.inputs.values(), rows.y):
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _make(task: Task, seed: int, recipe: str | None) -> Made:
    wishes = dict(task.wishes)
    if recipe is not None:
        fixed = {"max_drop": ANY_DROP, "minimize": "bytes", "recipe": Recipe.from_toml(recipe)}
        wishes = {name: wishes[name] for name in ("metric",) if name in wishes} | fixed
    unknown = wishes.keys() - inspect.signature(compress).parameters.keys()
    if unknown:
        raise SystemExit(f"compress.compress takes no {', '.join(sorted(unknown))}; leave it out")
    started = time.perf_counter()
    try:
        found = compress(
            task.model, train=task.train, valid=task.validation, seed=seed, progress=True, **wishes
        )
    except BoundNotMetError as error:
        if recipe is not None:
            raise
        seconds = time.perf_counter() - started
        return Made(task.original, "original", "", str(error), 0.0, {}, seconds, seed, True)
    best = found.best
    return Made(
        model=best.candidate.model,
        name=best.candidate.name,
        recipe=best.candidate.recipe,
        refusal="",
        said_drop=0.0 if best.drop is None else best.drop.estimate,
        said_speed_up={str(batch): gain.ratio for batch, gain in best.speed_up.items()},
        seconds=time.perf_counter() - started,
        seed=seed,
        is_searched=recipe is None,
    )


def _run_peer(task: Task, peer: str, max_drop: float, out: Path) -> str:
    """Runs the peer's process; answers its last words where it failed, else nothing."""
    if not PEER_PYTHON.exists():
        raise SystemExit(f"{PEER_PYTHON} is missing; make it with `make peers`, or --peers none")
    with tempfile.TemporaryDirectory(prefix="hlserve-bench-") as folder:
        model, rows = Path(folder) / "float.onnx", Path(folder) / "rows.npz"
        model.write_bytes(task.original)
        np.savez(rows, **_peer_rows(task, peer))
        child = ROOT / "benchmarks" / "compression_peers.py"
        command = (PEER_PYTHON, child, peer, model, rows, out, "--max-drop", max_drop)
        return _last_words([str(word) for word in command])


def _peer_rows(task: Task, peer: str) -> dict[str, Any]:
    """Calibration from the training rows; what has to keep a bound also sees those that judge."""
    rows = task.validation if peer == "nncf-control" else task.train
    if peer != "nncf-control":
        rows = rows.take(slice(0, CALIBRATION_ROWS))
    feeds: dict[str, Any] = bind_rows(Session(task.original), rows)
    return feeds if rows.y is None else feeds | {"y": rows.y}


def _last_words(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PEER_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"not done after {PEER_TIMEOUT_S} s"
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit code {done.returncode}"
