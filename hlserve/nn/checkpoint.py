"""Networks on disk: safetensors with a JSON description in the header; never pickle.

The tensors ``<node>.<param>`` hold the values; ``<node>.<param>:mask`` a pruning mask;
``...:scale`` and ``...:zero_point`` the integers' map of a parameter, or of an activation
(``<node>:scale``). The header's metadata holds everything else under the key ``hlserve``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from hlserve import __version__
from hlserve.errors import ConfigError, ModelFileError, SchemaVersionError
from hlserve.nn.atomic_file import write_atomically
from hlserve.nn.history import History
from hlserve.nn.layer import Layer
from hlserve.nn.layers import LAYERS
from hlserve.nn.network import Input, Network, Node
from hlserve.nn.param import Array, Param, QParams

SCHEMA_VERSION = 1
METADATA_KEY = "hlserve"

# A description can ask for any size before its tensors are looked at. Where a layer's two
# largest sizes multiply to more, the file is taken for damaged or hostile.
MAX_LAYER_ELEMENTS = 2**28

_Size = Annotated[int, msgspec.Meta(ge=1, le=2**31)]


class InputDescription(msgspec.Struct, frozen=True):
    """See ``network.Input``."""

    name: str
    shape: tuple[_Size, ...]
    dtype: Literal["float32", "int64"]
    units: str | None


class NodeDescription(msgspec.Struct, frozen=True):
    """A node: its layer's class name and constructor arguments."""

    name: str
    layer: str
    config: dict[str, Any]
    inputs: tuple[str, ...]


class QParamsDescription(msgspec.Struct, frozen=True):
    """What is not a tensor in ``param.QParams``."""

    axis: Annotated[int, msgspec.Meta(ge=0)] | None
    dtype: Literal["uint8", "int8", "int32"]


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a checkpoint says beside its tensors.

    Attributes:
        masks: names of the parameters that have one.
        qparams, activation_qparams: by parameter, and by node or input.
        history: the training run; None where the network was not trained here.
        extra: what the writer added, as JSON can hold it.
    """

    schema_version: int
    hlserve_version: str
    dtype: Literal["float32", "float64"]
    inputs: tuple[InputDescription, ...]
    nodes: tuple[NodeDescription, ...]
    outputs: dict[str, str]
    task: Literal["classification", "multilabel", "regression"] | None
    class_labels: tuple[str, ...] | None
    masks: tuple[str, ...]
    qparams: dict[str, QParamsDescription]
    activation_qparams: dict[str, QParamsDescription]
    history: History | None = None
    extra: dict[str, Any] = msgspec.field(default_factory=dict)


def save(
    network: Network,
    path: str | Path,
    *,
    history: History | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes the network; a reader sees the old file or the whole new one.

    Raises:
        ModelFileError: the file cannot be written.
        ConfigError: ``extra`` is more than JSON can hold.
    """
    description = msgspec.structs.replace(
        describe(network), history=history, extra=dict(extra or {})
    )
    try:
        text = msgspec.json.encode(description).decode()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"checkpoint {path}: cannot be written as JSON: {error}") from error
    content = to_safetensors(_tensors(network), metadata={METADATA_KEY: text})
    try:
        write_atomically(Path(path), content)
    except OSError as error:
        raise ModelFileError(f"checkpoint {path}: cannot be written: {error.strerror}") from error


def load(path: str | Path) -> Network:
    """The network that ``save`` wrote.

    Raises:
        ModelFileError: there is no such file, or it is not a whole, consistent checkpoint.
        SchemaVersionError: a newer hlserve wrote it.
    """
    description, tensors = _read(Path(path))
    try:
        return _network(description, tensors)
    except RecursionError as error:
        raise ModelFileError(f"checkpoint {path}: its description is nested too deep") from error
    except ConfigError as error:
        raise ModelFileError(f"checkpoint {path}: {error}") from error


def read_description(path: str | Path) -> Description:
    """What a checkpoint says of itself, its history and extras among it; raises as ``load``."""
    return _read(Path(path), with_tensors=False)[0]


def describe(network: Network) -> Description:
    """The network without its tensors."""
    params = network.params()
    return Description(
        schema_version=SCHEMA_VERSION,
        hlserve_version=__version__,
        dtype="float64" if network.dtype == np.float64 else "float32",
        inputs=tuple(InputDescription(i.name, i.shape, _kind(i), i.units) for i in network.inputs),
        nodes=tuple(
            NodeDescription(n.name, type(n.layer).__name__, n.layer.config(), n.inputs)
            for n in network.nodes
        ),
        outputs=network.outputs,
        task=network.task,
        class_labels=network.class_labels,
        masks=tuple(name for name, param in params.items() if param.mask is not None),
        qparams={
            name: _describe_qparams(param.qparams)
            for name, param in params.items()
            if param.qparams is not None
        },
        activation_qparams={
            name: _describe_qparams(qparams) for name, qparams in network.activation_qparams.items()
        },
    )


# ----- writing


def _kind(entry: Input) -> Literal["float32", "int64"]:
    return "int64" if entry.dtype == "int64" else "float32"


def _describe_qparams(qparams: QParams) -> QParamsDescription:
    return msgspec.convert({"axis": qparams.axis, "dtype": qparams.dtype}, QParamsDescription)


def _tensors(network: Network) -> dict[str, Array]:
    listed: list[tuple[str, Array]] = []
    for name, param in network.params().items():
        listed.append((name, param.value))
        if param.mask is not None:
            listed.append((f"{name}:mask", param.mask))
        if param.qparams is not None:
            listed += _qparams_tensors(name, param.qparams)
    for name, qparams in network.activation_qparams.items():
        listed += _qparams_tensors(name, qparams)
    tensors = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in listed}
    if len(tensors) != len(listed):
        raise ConfigError("two tensors would have one name: rename nodes that hold '.' or ':'")
    return tensors


def _qparams_tensors(name: str, qparams: QParams) -> list[tuple[str, Array]]:
    zero_point = np.asarray(qparams.zero_point)
    return [(f"{name}:scale", np.asarray(qparams.scale)), (f"{name}:zero_point", zero_point)]


# ----- reading


def _read(path: Path, *, with_tensors: bool = True) -> tuple[Description, dict[str, Array]]:
    if not path.is_file():
        raise ModelFileError(f"checkpoint {path}: there is no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            description = _parse(path, file.metadata() or {})
            names = list(file.keys()) if with_tensors else []
            return description, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, TypeError, AttributeError) as error:
        # The last two are what safetensors raises for types that NumPy does not have.
        raise ModelFileError(
            f"checkpoint {path}: not a whole safetensors file of NumPy types: {error}"
        ) from error


def _parse(path: Path, metadata: Mapping[str, str]) -> Description:
    text = metadata.get(METADATA_KEY)
    if text is None:
        raise ModelFileError(
            f"checkpoint {path}: its header has no {METADATA_KEY!r} description, "
            "so hlserve did not write it"
        )
    try:
        version = msgspec.json.decode(text, type=_Version).schema_version
        if version > SCHEMA_VERSION:
            raise SchemaVersionError(
                f"checkpoint {path}: schema_version is {version}, this hlserve {__version__} "
                f"reads up to {SCHEMA_VERSION}; upgrade hlserve"
            )
        return msgspec.json.decode(text, type=Description)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ModelFileError(f"checkpoint {path}: description: {error}") from error


class _Version(msgspec.Struct, frozen=True):
    schema_version: int


def _network(description: Description, tensors: Mapping[str, Array]) -> Network:
    left = dict(tensors)
    inputs = [Input(i.name, i.shape, i.dtype, i.units) for i in description.inputs]
    nodes = [Node(n.name, _layer(n, left), n.inputs) for n in description.nodes]
    network = Network(
        inputs,
        nodes,
        description.outputs,
        task=description.task,
        class_labels=description.class_labels,
    ).astype(description.dtype)
    _fill(network, description, left)
    if left:
        raise ConfigError(f"tensors that no layer asks for: {sorted(left)[:5]}")
    return network


def _layer(node: NodeDescription, tensors: Mapping[str, Array]) -> Layer:
    kinds = {kind.__name__: kind for kind in LAYERS}
    if node.layer not in kinds:
        raise ConfigError(
            f"node {node.name!r}: layer {node.layer!r} is unknown; known are {sorted(kinds)}"
        )
    config = {name: _as_argument(value) for name, value in node.config.items()}
    _require_sane_sizes(node, config)
    try:
        layer: Layer = kinds[node.layer](**config)
    except (ArithmeticError, AttributeError, MemoryError, TypeError, ValueError) as error:
        raise ConfigError(f"node {node.name!r}: {node.layer}({config}): {error}") from error
    for name, param in layer.params().items():
        found = tensors.get(f"{node.name}.{name}")
        _require_shape(f"{node.name}.{name}", found, param.value.shape)
    return layer


def _as_argument(value: Any) -> Any:
    return tuple(_as_argument(v) for v in value) if isinstance(value, list) else value


def _integers(value: Any) -> list[int]:
    if isinstance(value, tuple):
        return [integer for part in value for integer in _integers(part)]
    return [abs(value)] if isinstance(value, int) else []


def _require_sane_sizes(node: NodeDescription, config: dict[str, Any]) -> None:
    largest = sorted(_integers(tuple(config.values())))[-2:]
    if math.prod(largest) > MAX_LAYER_ELEMENTS:
        raise ConfigError(f"node {node.name!r}: {node.layer}({config}) is too large")


def _fill(network: Network, description: Description, left: dict[str, Array]) -> None:
    """Moves the tensors into the network; what no one asked for stays in ``left``."""
    params = network.params()
    unknown = {*description.masks, *description.qparams} - params.keys()
    unknown |= description.activation_qparams.keys() - network.shapes.keys()
    if unknown:
        raise ConfigError(f"masks or qparams of unknown parameters or nodes: {sorted(unknown)[:5]}")
    for name, param in params.items():
        value = left.pop(name)
        if value.dtype != network.dtype:
            raise ConfigError(f"tensor {name!r} is {value.dtype}, expected {network.dtype}")
        param.value[...] = value
        if name in description.masks:
            param.mask = _require_shape(f"{name}:mask", left.pop(f"{name}:mask", None), value.shape)
        if name in description.qparams:
            param.qparams = _qparams(name, description.qparams[name], left, param)
    for name, described in description.activation_qparams.items():
        network.activation_qparams[name] = _qparams(name, described, left, None)


def _qparams(
    name: str, described: QParamsDescription, left: dict[str, Array], param: Param | None
) -> QParams:
    scale = left.pop(f"{name}:scale", None)
    if scale is None:
        raise ConfigError(f"tensor '{name}:scale' is missing")
    if described.axis is None:
        shape: tuple[int, ...] = ()
    elif param is not None and described.axis < param.value.ndim:
        shape = (param.value.shape[described.axis],)
    else:
        shape = scale.shape
    _require_shape(f"{name}:scale", scale, shape)
    zero_point = _require_shape(f"{name}:zero_point", left.pop(f"{name}:zero_point", None), shape)
    if scale.dtype != np.float32 or zero_point.dtype != described.dtype:
        raise ConfigError(
            f"qparams of {name!r} are {scale.dtype} and {zero_point.dtype}, "
            f"expected float32 and {described.dtype}"
        )
    return QParams(scale, zero_point, described.axis, described.dtype)


def _require_shape(name: str, array: Array | None, shape: tuple[int, ...]) -> Array:
    if array is None:
        raise ConfigError(f"tensor {name!r} is missing")
    if array.shape != shape:
        raise ConfigError(f"tensor {name!r} has shape {array.shape}, its layer expects {shape}")
    return array
