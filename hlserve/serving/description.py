"""What the server says of itself and of its models: the metadata calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hlserve import __version__
from hlserve.repository import TensorSpec
from hlserve.serving.model import ServedModel
from hlserve.serving.model_config import PLATFORM
from hlserve.serving.session import TensorInfo

SERVER_NAME = "hlserve"
# Triton's names for what every server of ours offers beyond the six calls.
EXTENSIONS = (
    "classification",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "logging",
)


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """Who answers."""

    name: str = SERVER_NAME
    version: str = __version__
    extensions: tuple[str, ...] = EXTENSIONS


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a model takes and gives.

    Attributes:
        name: the model.
        versions: those that answer, ascending.
        inputs: -1 where a dimension varies.
        outputs: -1 where a dimension varies.
        properties: facts as text: ``class_labels``, ``units`` and ``frontend`` as JSON, ``task``,
            ``sha256``.
        platform: Triton's name for an ONNX file in ONNX Runtime.
    """

    name: str
    versions: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    properties: Mapping[str, str] = field(default_factory=dict)
    platform: str = PLATFORM


def describe_server(
    *, loads_by_call: bool, has_shared_memory: bool, can_trace: bool
) -> ServerMetadata:
    """Who answers, with the extensions that are there."""
    extensions: tuple[str, ...] = EXTENSIONS
    if loads_by_call:
        extensions += ("model_repository",)
    if has_shared_memory:
        extensions += ("system_shared_memory",)
    if can_trace:
        extensions += ("trace",)
    return ServerMetadata(extensions=extensions)


def describe_model(model: ServedModel, versions: Sequence[int]) -> ModelMetadata:
    """What a model takes and gives; ``versions`` are those that answer, ascending."""
    units = _units(model)
    return ModelMetadata(
        name=model.name,
        versions=tuple(str(number) for number in versions),
        inputs=tuple(_spec(tensor, units) for tensor in model.session.inputs),
        outputs=tuple(_spec(tensor, units) for tensor in model.session.outputs),
        properties=_properties(model, units),
    )


def _units(model: ServedModel) -> dict[str, str]:
    if model.metadata is None:
        return {}
    specs = (*model.metadata.inputs, *model.metadata.outputs)
    return {spec.name: spec.units for spec in specs if spec.units is not None}


def _spec(tensor: TensorInfo, units: Mapping[str, str]) -> TensorSpec:
    return TensorSpec(tensor.name, tensor.datatype.name, tensor.shape, units.get(tensor.name))


def _properties(model: ServedModel, units: Mapping[str, str]) -> dict[str, str]:
    if model.metadata is None:
        return {}
    properties = {"sha256": model.metadata.sha256}
    if model.metadata.task is not None:
        properties["task"] = model.metadata.task
    if model.metadata.class_labels is not None:
        properties["class_labels"] = json.dumps(model.metadata.class_labels, ensure_ascii=False)
    if units:
        properties["units"] = json.dumps(units, ensure_ascii=False)
    if model.metadata.frontend is not None:
        properties["frontend"] = json.dumps(model.metadata.frontend, ensure_ascii=False)
    return properties
