"""A model's configuration: from the text of config.pbtxt or config.json to a typed, checked value.

Both are Triton's ModelConfig, as protobuf text and as protobuf JSON. What hlserve does not do is
refused by name; nothing that a file says is passed over in silence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf import json_format, text_format

from hlserve.errors import ConfigError
from hlserve.pb.messages import model_config
from hlserve.repository import MODEL_FILE, is_model_name
from hlserve.serving.batching_config import BatchingConfig, QueuePolicy
from hlserve.serving.config import (
    DeclaredTensor,
    ModelConfig,
    ProviderConfig,
    ServerConfig,
    WarmUp,
    WarmUpInput,
    check_threads,
)
from hlserve.serving.datatype_names import datatype_name

PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"

# Fields of Triton's ModelConfig that are not in ours, and why.
_REFUSED_FIELDS = {
    "sequence_batching": "sequences that keep state in the server are not offered",
    "ensemble_scheduling": "ensembles are not offered: join the graphs into one ONNX file",
    "response_cache": "answers are not cached",
    "model_operations": "custom-op libraries run code of their own and are not loaded",
    "model_repository_agents": "repository agents are not offered",
    "batch_input": "made-up batch inputs are not offered",
    "batch_output": "made-up batch outputs are not offered",
    "allow_ragged_batch": "rows of different shapes are not joined",
    "is_shape_tensor": "it belongs to TensorRT plans, and models are ONNX files",
    "cc_model_filenames": "a version has one file, see default_model_filename",
    "metric_tags": "metrics have the labels model and version",
    "model_metrics": "metrics are chosen for the whole server",
    "runtime": "the runtime is always ONNX Runtime",
    "rate_limiter": "runs are limited by the server's threads",
    "host_policy": "host policies are not offered",
    "secondary_devices": "a model has one device",
    "passive": "every instance takes requests",
    "profile": "it belongs to TensorRT plans, and models are ONNX files",
}
_ACCELERATORS = ("tensorrt", "cuda")
_MAX_TEXT_BYTES = 1 << 20
_NO_FIELD = re.compile(r'Message type "[\w.]+" has no field named')
_FIELD_NAME = re.compile(r'unknown field "([^"]*)"')


@dataclass(frozen=True, slots=True)
class ConfigText:
    """A configuration as somebody wrote it.

    Attributes:
        file: how messages name it: ``config.pbtxt``, ``config.json``, or a call's parameter.
        text: its content.
        is_json: protobuf JSON; else protobuf text.
    """

    file: str
    text: str
    is_json: bool


def read_model_config(name: str, source: ConfigText | None, defaults: ServerConfig) -> ModelConfig:
    """A model's configuration.

    Args:
        name: the model's folder.
        source: None: the defaults.
        defaults: where nothing is said.

    Raises:
        ConfigError: the text cannot be read, or a field is unknown, not offered, of the wrong type
            or has an impossible value; the message names the file and the field, and in protobuf
            text the line.
    """
    if source is None:
        return _typed(name, model_config.ModelConfig(), defaults)
    try:
        return _typed(name, _parse(source), defaults)
    except ConfigError as error:
        raise ConfigError(f"{source.file}: {error}") from error


# ----- text to message


def _parse(source: ConfigText) -> model_config.ModelConfig:
    if len(source.text) > _MAX_TEXT_BYTES:
        raise ConfigError(f"it has {len(source.text)} characters, expected at most 1 MiB")
    message = model_config.ModelConfig()
    try:
        if source.is_json:
            if not source.text.lstrip().startswith("{"):  # the parser takes [] for {}
                raise ConfigError("it holds no JSON object")
            json_format.Parse(source.text, message)
        else:
            text_format.Parse(source.text, message)
    except (json_format.ParseError, text_format.ParseError, ValueError, RecursionError) as error:
        raise ConfigError(_parse_reason(error)) from error
    return message


def _parse_reason(error: Exception) -> str:
    """The parser's message without our message class and the list of all fields; with the line."""
    text = _NO_FIELD.sub("unknown field", str(error) or type(error).__name__)
    text = text.replace('"inference.', '"')
    text = text.splitlines()[0].split(" Available Fields")[0].rstrip(" .")
    text = re.sub(r"^(\d+):(\d+) : ", r"line \1, column \2: ", text).replace("'", "'")
    found = _FIELD_NAME.search(text)
    why = _REFUSED_FIELDS.get(_snake_case(found.group(1))) if found else None
    return f"{text}: {why}" if why else text


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


# ----- message to values


def _typed(name: str, message: model_config.ModelConfig, defaults: ServerConfig) -> ModelConfig:
    _check_identity(name, message)
    parameters = _Parameters(message)
    latest_versions, specific_versions = _version_policy(message)
    threads = parameters.integer("intra_op_thread_count", defaults.intra_op_threads)
    check_threads(threads)
    return ModelConfig(
        batching=_batching(message, parameters, defaults.batching),
        intra_op_threads=threads,
        instances=_instances(message),
        max_request_rows=message.max_batch_size or None,
        latest_versions=latest_versions,
        specific_versions=specific_versions,
        histograms=defaults.metrics is not None,
        model_file=_file_name("default_model_filename", message.default_model_filename)
        or MODEL_FILE,
        provider=_provider(message, defaults.provider),
        spins=parameters.integer("session.intra_op.allow_spinning", 0, largest=1) == 1,
        inputs=_declared("input", message.input),
        outputs=_declared("output", message.output),
        warm_ups=tuple(_warm_up(warm_up) for warm_up in message.model_warmup),
    )


def _check_identity(name: str, message: model_config.ModelConfig) -> None:
    for key, value, expected in (
        ("name", message.name, name),
        ("platform", message.platform, PLATFORM),
        ("backend", message.backend, BACKEND),
    ):
        if value and value != expected:
            raise ConfigError(f"{key} is {value!r}, expected {expected!r}")
    if message.max_batch_size < 0:
        raise ConfigError(f"max_batch_size is {message.max_batch_size}, expected 0 or more")
    if message.model_transaction_policy.decoupled:
        raise ConfigError("model_transaction_policy.decoupled is true, and no ONNX model is")


class _Parameters:
    """The map ``parameters``: every one known, every one a number."""

    _KNOWN = ("intra_op_thread_count", "max_queue_rows", "session.intra_op.allow_spinning")

    def __init__(self, message: model_config.ModelConfig) -> None:
        self._texts = {key: value.string_value for key, value in message.parameters.items()}
        unknown = sorted(set(self._texts) - set(self._KNOWN))
        if unknown:
            raise ConfigError(f"unknown parameter {unknown[0]!r}, expected {self._KNOWN}")

    def integer(self, key: str, default: int, largest: int = 10**9 - 1) -> int:
        """A parameter's number, or the default where it is not there."""
        text = self._texts.get(key)
        if text is None:
            return default
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise ConfigError(f"parameter {key!r} is {text!r}, expected a number")
        if int(text) > largest:
            raise ConfigError(f"parameter {key!r} is {text}, expected at most {largest}")
        return int(text)


def _version_policy(message: model_config.ModelConfig) -> tuple[int | None, tuple[int, ...]]:
    policy = message.version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return None, ()
    if choice == "specific":
        versions = tuple(policy.specific.versions)
        if not versions:
            raise ConfigError("version_policy.specific names no version")
        if min(versions) < 1:
            raise ConfigError(f"version_policy.specific names {min(versions)}, expected 1 or more")
        return None, versions
    return max(1, policy.latest.num_versions), ()


def _provider(message: model_config.ModelConfig, default: str) -> ProviderConfig:
    """From instance_group and execution_accelerators; the accelerator names the provider."""
    on_gpu, device = _device(message)
    accelerators = message.optimization.execution_accelerators
    if accelerators.cpu_execution_accelerator:
        name = accelerators.cpu_execution_accelerator[0].name
        raise ConfigError(f"cpu_execution_accelerator {name!r} is not offered, remove it")
    chosen = accelerators.gpu_execution_accelerator
    if len(chosen) > 1:
        raise ConfigError(f"{len(chosen)} execution accelerators, expected one")
    if not chosen:
        if on_gpu is None:
            return ProviderConfig(default)
        gpu = default if default != "cpu" else "cuda"
        return ProviderConfig(gpu if on_gpu else "cpu", device)
    name = chosen[0].name.lower()
    if name not in _ACCELERATORS:
        raise ConfigError(
            f"gpu_execution_accelerator is {chosen[0].name!r}, expected one of {_ACCELERATORS}"
        )
    if on_gpu is False:
        raise ConfigError(f"instance_group is KIND_CPU, and {name!r} runs on a GPU")
    return ProviderConfig(name, device, dict(chosen[0].parameters))


def _device(message: model_config.ModelConfig) -> tuple[bool | None, int | None]:
    """Whether instance_group asks for a GPU (None: it leaves it open), and for which."""
    groups = message.instance_group
    if not groups:
        return None, None
    if len(groups) > 1:
        raise ConfigError(f"{len(groups)} instance groups, expected one: a model has one device")
    group = groups[0]
    kind = type(group).Kind.Name(group.kind)
    if kind == "KIND_MODEL":
        raise ConfigError("instance_group.kind is KIND_MODEL, expected KIND_CPU or KIND_GPU")
    if len(group.gpus) > 1 or min(group.gpus, default=0) < 0:
        raise ConfigError(f"instance_group.gpus is {list(group.gpus)}, expected one device number")
    if kind == "KIND_CPU" and group.gpus:
        raise ConfigError("instance_group is KIND_CPU and names gpus, expected one of the two")
    device = group.gpus[0] if group.gpus else None
    if kind == "KIND_AUTO" and device is None:
        return None, None
    return kind != "KIND_CPU", device


def _instances(message: model_config.ModelConfig) -> int:
    count = message.instance_group[0].count if message.instance_group else 0
    if count < 0:
        raise ConfigError(f"instance_group.count is {count}, expected 1 or more")
    return count or 1


def _batching(
    message: model_config.ModelConfig, parameters: _Parameters, defaults: BatchingConfig
) -> BatchingConfig:
    config = replace(
        defaults,
        max_rows=message.max_batch_size or defaults.max_rows,
        max_queue_rows=parameters.integer("max_queue_rows", defaults.max_queue_rows),
    )
    if not message.HasField("dynamic_batching"):
        return config
    stated = message.dynamic_batching
    return replace(
        config,
        preferred_rows=tuple(sorted(set(stated.preferred_batch_size))),
        max_queue_delay_s=stated.max_queue_delay_microseconds / 1e6,
        priority_levels=stated.priority_levels,
        default_priority_level=stated.default_priority_level,
        queue_policy=_queue_policy(stated.default_queue_policy)
        if stated.HasField("default_queue_policy")
        else defaults.queue_policy,
        priority_queue_policies={
            level: _queue_policy(policy) for level, policy in stated.priority_queue_policy.items()
        },
        preserve_ordering=stated.preserve_ordering,
    )


def _queue_policy(message: model_config.ModelQueuePolicy) -> QueuePolicy:
    return QueuePolicy(
        timeout_action="DELAY" if message.timeout_action == message.DELAY else "REJECT",
        default_timeout_s=message.default_timeout_microseconds / 1e6,
        allow_timeout_override=message.allow_timeout_override,
        max_queue_size=message.max_queue_size,
    )


def _declared(kind: str, tensors: Any) -> tuple[DeclaredTensor, ...]:
    declared = tuple(_declared_tensor(kind, tensor) for tensor in tensors)
    names = [tensor.name for tensor in declared]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ConfigError(f"{kind} {repeated[0]!r} is declared twice")
    return declared


def _declared_tensor(kind: str, tensor: Any) -> DeclaredTensor:
    if not tensor.name:
        raise ConfigError(f"an {kind} has no name")
    where = f"{kind} {tensor.name!r}"
    if tensor.HasField("reshape"):
        raise ConfigError(f"{where}: reshape is not offered, declare the graph's own dims")
    if kind == "input" and tensor.optional:
        raise ConfigError(f"{where}: optional inputs are not offered, a request brings all")
    _check_dims(where, tensor.dims, smallest=-1)
    label_file = "" if kind == "input" else tensor.label_filename
    return DeclaredTensor(
        name=tensor.name,
        datatype=datatype_name(tensor.data_type),
        dims=tuple(tensor.dims) or None,
        label_file=_file_name(f"{where}: label_filename", label_file) or None,
    )


def _check_dims(where: str, dims: Any, smallest: int) -> None:
    for dim in dims:
        if dim == 0 or dim < smallest:
            allowed = "1 or more" if smallest > 0 else "1 or more, or -1 for any"
            raise ConfigError(f"{where}: dims has {dim}, expected {allowed}")


def _file_name(field: str, name: str) -> str:
    """A file's name that stays in its folder, or nothing."""
    if name and not is_model_name(name):
        raise ConfigError(f"{field} is {name!r}, expected a plain file name")
    return name


def _warm_up(message: model_config.ModelWarmup) -> WarmUp:
    where = f"model_warmup {message.name!r}"
    if not message.inputs:
        raise ConfigError(f"{where} has no inputs")
    return WarmUp(
        name=message.name,
        rows=message.batch_size,
        inputs={key: _warm_up_input(f"{where}: {key!r}", i) for key, i in message.inputs.items()},
        count=max(1, message.count),
    )


def _warm_up_input(where: str, message: model_config.ModelWarmup.Input) -> WarmUpInput:
    choices: Mapping[str | None, Any] = {
        "zero_data": "zeros",
        "random_data": "random",
        "input_data_file": "file",
    }
    fill = choices.get(message.WhichOneof("input_data_type"))
    datatype = datatype_name(message.data_type)
    if fill is None:
        raise ConfigError(f"{where}: expected one of zero_data, random_data, input_data_file")
    if datatype is None:
        raise ConfigError(f"{where}: data_type is missing")
    _check_dims(where, message.dims, smallest=1)
    file = _file_name(f"{where}: input_data_file", message.input_data_file)
    if fill == "file" and not file:
        raise ConfigError(f"{where}: input_data_file names no file")
    return WarmUpInput(datatype=datatype, dims=tuple(message.dims), fill=fill, file=file)
