"""What the words of ``hlserve train`` stand for: losses, optimizers, schedules, augmentation."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.augmentation import Augment
from hlserve.nn.losses import CrossEntropy, Focal, Huber, Loss, MeanSquaredError, Quantile
from hlserve.nn.network import Task
from hlserve.nn.optimizers import SGD, AdamW, Optimizer, RMSprop
from hlserve.nn.param import Array
from hlserve.nn.schedules import Constant, Cosine, OneCycle, Plateau, Schedule, Step
from hlserve.nn.trainer import LEARNING_RATE, WARM_UP

LOSSES = "cross-entropy, focal[:GAMMA]; mse, huber[:DELTA], quantile:Q"
SCHEDULES = (
    "cosine[:WARM_UP], one-cycle[:WARM_UP], step:STEPS[,FACTOR], plateau[:PATIENCE[,FACTOR]] or "
    "constant"
)
AUGMENTATIONS = "shift[:PIXELS], flip, zoom[:SHARE], erase[:PIXELS], noise:DEVIATION"

_MOST_SHIFT, _MOST_ZOOM, _ERASED = 2.0, 0.1, 8.0  # usual for images of about 28x28


def make_optimizer(
    kind: Literal["adamw", "rmsprop", "sgd"],
    learning_rate: float | None,
    weight_decay: float | None,
) -> Optimizer:
    """A fresh optimizer, with our defaults where None leaves it open."""
    if kind == "sgd":
        return SGD(
            0.05 if learning_rate is None else learning_rate,
            nesterov=True,
            weight_decay=1e-4 if weight_decay is None else weight_decay,
        )
    if kind == "rmsprop":
        rate = 1e-3 if learning_rate is None else learning_rate
        return RMSprop(rate, weight_decay=weight_decay or 0.0)
    return AdamW(
        LEARNING_RATE if learning_rate is None else learning_rate,
        weight_decay=0.01 if weight_decay is None else weight_decay,
    )


def make_schedule(spec: str) -> Schedule:
    """The schedule of a spec; see SCHEDULES.

    Raises:
        ConfigError: it is none of them.
    """
    kind, numbers = _parse("--schedule", spec)
    match kind, numbers:
        case "constant", []:
            return Constant()
        case "cosine", []:
            return Cosine(warm_up=WARM_UP)
        case "cosine", [warm_up]:
            return Cosine(warm_up=warm_up)
        case "one-cycle", []:
            return OneCycle()
        case "one-cycle", [warm_up]:
            return OneCycle(warm_up=warm_up)
        case "step", [every, *factor] if len(factor) < 2:
            return Step(round(every), *factor)
        case "plateau", []:
            return Plateau()
        case "plateau", [patience, *factor] if len(factor) < 2:
            return Plateau(factor[0] if factor else 0.1, round(patience))
    raise ConfigError(f"--schedule {spec}: expected {SCHEDULES}")


def make_loss(spec: str | None, label_smoothing: float, task: Task, targets: Array) -> Loss | None:
    """The loss of a spec; see LOSSES. None where the task's own will do.

    Errors of numbers are counted in the standard deviations of the ``targets``, (rows, ...).

    Raises:
        ConfigError: it is none of them, or not for this task.
    """
    kind, numbers = _parse("--loss", spec or ("mse" if task == "regression" else "cross-entropy"))
    is_for_classes = kind in ("cross-entropy", "focal")
    if is_for_classes != (task == "classification"):
        raise ConfigError(f"--loss {spec}: is not for {task}; expected {LOSSES}")
    if label_smoothing and kind != "cross-entropy":
        raise ConfigError(f"--label-smoothing: is for cross-entropy, the loss is {kind}")
    match kind, numbers:
        case "cross-entropy", []:
            return CrossEntropy(label_smoothing) if label_smoothing else None
        case "focal", [] | [_]:
            return Focal(*numbers)
        case "mse", []:
            return MeanSquaredError(_deviation(targets)) if spec else None
        case "huber", [] | [_]:
            return Huber(numbers[0] if numbers else 1.0, _deviation(targets))
        case "quantile", [q]:
            return Quantile(q, _deviation(targets))
    raise ConfigError(f"--loss {spec}: expected {LOSSES}")


def make_augment(spec: str | None) -> Augment | None:
    """What changes images, from words with commas; see AUGMENTATIONS.

    Raises:
        ConfigError: a word is none of them.
    """
    if spec is None:
        return None
    found = dict[str, float]()
    usual = {"shift": _MOST_SHIFT, "zoom": _MOST_ZOOM, "erase": _ERASED, "flip": 1.0}
    for word in spec.split(","):
        kind, numbers = _parse("--augment", word)
        given = numbers or ([usual[kind]] if kind in usual else [])
        if kind not in (*usual, "noise") or len(given) != 1 or (kind == "flip" and numbers):
            raise ConfigError(f"--augment {spec}: {word!r} is not among {AUGMENTATIONS}")
        found[kind] = given[0]
    return Augment(
        shift=round(found.get("shift", 0)),
        flip="flip" in found,
        zoom=found.get("zoom", 0.0),
        erase=round(found.get("erase", 0)),
        noise=found.get("noise", 0.0),
    )


def class_weight_of(spec: str | None) -> Literal["balanced"] | list[float] | None:
    """The word for balanced classes, or a number a class.

    Raises:
        ConfigError: it is neither.
    """
    if spec is None or spec == "balanced":
        return spec  # type: ignore[return-value]  # mypy does not narrow to the literal
    return _numbers("--class-weight", spec, spec)


def save_every_of(spec: str | None) -> float | Literal["epoch"] | None:
    """Seconds, from minutes; or "epoch".

    Raises:
        ConfigError: it is neither.
    """
    if spec is None or spec == "epoch":
        return spec  # type: ignore[return-value]  # mypy does not narrow to the literal
    minutes = _numbers("--save-every", spec, spec)
    if len(minutes) != 1 or minutes[0] <= 0:
        raise ConfigError(f'--save-every {spec}: expected minutes above 0, or "epoch"')
    return 60 * minutes[0]


def names_of(spec: str | None) -> tuple[str, ...]:
    """Column names with commas between; a name that holds one stands in double quotes.

    Raises:
        ConfigError: a name is empty.
    """
    if spec is None:
        return ()
    names = tuple(name.strip() for name in next(csv.reader([spec]), []))
    if not names or not all(names):
        raise ConfigError(f"{spec!r}: expected names of columns with commas between")
    return names


def state_path(out: Path) -> Path:
    """Where the training of a checkpoint keeps its state."""
    return out.with_suffix(".training.safetensors")


def _parse(option: str, spec: str) -> tuple[str, list[float]]:
    kind, colon, text = spec.strip().partition(":")
    return kind, _numbers(option, spec, text) if colon else []


def _numbers(option: str, spec: str, text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{option} {spec}: {text!r} are not numbers") from error


def _deviation(targets: Array) -> Array:
    spread = targets.std(axis=0, dtype=np.float64)
    return np.where(spread > 0, spread, 1.0)
