"""Rows as a model takes them: by its own front end, and with its own class numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from hlserve.datasets import Dataset, load
from hlserve.errors import DataError
from hlserve.frontend import FRONTEND_KEY, FrontEnd, Table, from_json


@final
@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model file, or the metadata beside it, says of its rows.

    Attributes:
        frontend: makes its inputs of texts, sounds, images or cells; None where they are
            numbers.
        class_labels: in the order of its outputs; None where they are not known.
    """

    frontend: FrontEnd | None = None
    class_labels: tuple[str, ...] | None = None


def facts_of(path: Path) -> ModelFacts:
    """What is known of a checkpoint, or of an ONNX file in a version's folder.

    Raises:
        ModelFileError: the file cannot be read, or its front end cannot.
    """
    if path.suffix == ".safetensors":
        from hlserve.nn.checkpoint import read_description

        description = read_description(path)
        return _facts(path, description.extra.get(FRONTEND_KEY), description.class_labels)
    from hlserve.repository import MODEL_FILE, read_metadata

    metadata = read_metadata(path.parent) if path.name == MODEL_FILE else None
    if metadata is None:
        return ModelFacts()
    return _facts(path, metadata.frontend, metadata.class_labels)


def load_for(facts: ModelFacts, data: str, *, target: str | None) -> Dataset:
    """The data's rows; nothing is fitted on them, and a class is the number that it has there.

    Raises:
        DataError: see ``hlserve.datasets.load``; or a class is none of the model's, or the data
            are texts or sounds and the model says nothing of how to read them.
    """
    dataset = load(data, target=target, frontend=facts.frontend)
    if facts.frontend is None and not _is_of_numbers(dataset.frontend):
        raise DataError(
            f"{data} holds texts, sounds or images, and the model has no front end that makes its "
            "inputs of them; take a checkpoint or a published version that was trained on such, "
            "or arrays (.npz)"
        )
    return dataset.in_classes(facts.class_labels)


def _is_of_numbers(front_end: FrontEnd | None) -> bool:
    """Whether its rows are what any reader makes of the cells, perhaps with gaps."""
    return front_end is None or (isinstance(front_end, Table) and not front_end.categories)


def _facts(path: Path, frontend: Any, class_labels: tuple[str, ...] | None) -> ModelFacts:
    if frontend is None:
        return ModelFacts(None, class_labels)
    return ModelFacts(from_json(frontend, where=f"{path}: front end"), class_labels)
