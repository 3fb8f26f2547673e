"""Texts, sounds and images to rows, by a front end: one that is given, or one fitted on them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

from hlserve.datasets.dataset import Array, Dataset, Rows, Task
from hlserve.errors import DataError
from hlserve.frontend import FrontEnd, fit, item_kind

Kind = Literal["text", "sound", "image"]

DEFAULT_SPEC: dict[Kind, str] = {"text": "words", "sound": "log-mel"}  # images have no usual size
_UNITS: dict[Kind, str | None] = {
    "text": None,
    "sound": "ln of the energy in a mel band",
    "image": "pixel intensity 0..255",
}
_ITEM = re.compile(r"^item (\d+)\b")


@final
@dataclass(frozen=True, slots=True)
class RawItems:
    """Some items, where each came from, and their labels.

    Attributes:
        items: texts; or sounds or images as paths or contents.
        names: what errors call them.
        labels: as text; None where there are none.
    """

    items: Sequence[Any]
    names: Sequence[str]
    labels: Sequence[str] | None


def made_dataset(
    path: Path,
    kind: Kind,
    train: RawItems,
    test: RawItems | None,
    frontend: FrontEnd | str | None,
) -> Dataset:
    """Rows of raw items.

    Labels are classes, in sorted order; where all are numbers and one is not whole they are a
    regression's targets.

    Args:
        path: where the items came from.
        kind: what they are.
        train: what a front end is fitted on.
        test: the source's own test part; where training is empty it takes its place.
        frontend: one that was fitted before, a short text such as ``words:5000``, or None for
            the kind's usual one, which images have none of.

    Raises:
        DataError: the front end takes something else, an item cannot be taken, or the test part
            holds a class that training lacks.
    """
    if test is not None and not (train.items and test.items):
        train, test = (train if train.items else test), None
    front_end = _front_end(path, kind, train, frontend)
    task, class_labels = _task(train.labels)

    def rows(part: RawItems) -> Rows:
        inputs = _told(path, part, front_end.apply, part.items)
        return Rows(inputs, _y(path, part.labels, task, class_labels))

    return Dataset(
        name=path.resolve().stem,
        train=rows(train),
        test=None if test is None else rows(test),
        task=task,
        class_labels=class_labels,
        units=_UNITS[kind],
        feature_names=None,
        licence="unknown",
        source=str(path),
        frontend=front_end,
    )


def _front_end(
    path: Path, kind: Kind, train: RawItems, frontend: FrontEnd | str | None
) -> FrontEnd:
    if isinstance(frontend, str) or frontend is None:
        spec = frontend or DEFAULT_SPEC[kind]
        if spec.startswith("log-mel") != (kind == "sound"):
            raise DataError(f"'{path}' holds {kind}, the front end {spec!r} takes something else")
        found: FrontEnd = _told(path, train, fit, spec, train.items)
        return found
    if item_kind(frontend) != kind:
        raise DataError(f"'{path}' holds {kind}, the model's front end takes {item_kind(frontend)}")
    return frontend


def _told(path: Path, part: RawItems, function: Any, *arguments: Any) -> Any:
    """The function's answer; its errors name the file or line in place of the item's number."""
    try:
        return function(*arguments)
    except DataError as error:
        named = _ITEM.sub(lambda match: part.names[int(match.group(1))], str(error))
        raise DataError(f"'{path}': {named}") from error


def _task(labels: Sequence[str] | None) -> tuple[Task | None, tuple[str, ...] | None]:
    if labels is None:
        return None, None
    different = set(labels)
    numbers = {label: _number(label) for label in different}
    if all(number is not None for number in numbers.values()):
        if not all(_is_whole(label) for label in different):
            return "regression", None
        return "classification", tuple(sorted(different, key=lambda label: (int(label), label)))
    return "classification", tuple(sorted(different))


def _y(
    path: Path,
    labels: Sequence[str] | None,
    task: Task | None,
    class_labels: tuple[str, ...] | None,
) -> Array | None:
    if labels is None or task is None:
        return None
    if class_labels is None:
        return np.array([_number(label) for label in labels], dtype=np.float32)
    place = {label: number for number, label in enumerate(class_labels)}
    unseen = sorted(set(labels) - place.keys())
    if unseen:
        raise DataError(f"'{path}': the test part has the class '{unseen[0]}', training has not")
    return np.array([place[label] for label in labels], dtype=np.int64)


def _number(text: str) -> float | None:
    try:
        value = float(text) if "_" not in text else None
    except ValueError:
        return None
    return value if value is not None and np.isfinite(value) else None


def _is_whole(text: str) -> bool:
    return text.lstrip("+-").isdecimal()
