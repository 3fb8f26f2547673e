"""How the server and each model are served: typed, checked, defaults in one place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from google.protobuf import json_format

from hlserve.errors import ConfigError
from hlserve.pb.messages import model_config

Transport = Literal["grpcio", "http2"]

_MAX_THREADS = 1024


@dataclass(frozen=True, slots=True)
class BatchingConfig:
    """How requests to one model are joined.

    Attributes:
        max_rows: the most rows of one joined run; 1 = join nothing. A single larger request
            runs alone.
        max_queue_delay_s: how long the first row waits for company; 0: until the loop turn ends.
        max_queue_rows: waiting rows beyond which requests are refused.
    """

    max_rows: int = 64
    max_queue_delay_s: float = 0.0
    max_queue_rows: int = 4096

    def __post_init__(self) -> None:
        if self.max_rows < 1:
            raise ConfigError(f"max batch size is {self.max_rows}, expected at least 1")
        if self.max_queue_delay_s < 0:
            raise ConfigError(f"max queue delay is {self.max_queue_delay_s} s, expected 0 or more")
        if self.max_queue_rows < 1:
            raise ConfigError(f"max queue rows is {self.max_queue_rows}, expected at least 1")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Everything that ``hlserve serve`` can be told."""

    models: Path
    host: str = "127.0.0.1"
    port: int = 8001
    batching: BatchingConfig = field(default_factory=BatchingConfig)
    provider: str = "cpu"
    intra_op_threads: int = 1
    drain_timeout_s: float = 30.0
    transport: Transport = "grpcio"

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}, expected 0 to 65535")
        if self.drain_timeout_s < 0:
            raise ConfigError(f"drain timeout is {self.drain_timeout_s} s, expected 0 or more")
        _check_threads(self.intra_op_threads)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """How one model is served: the server's defaults, changed by its config.json.

    Attributes:
        batching: how its requests are joined.
        intra_op_threads: threads of one run; 0 = a thread a core.
        max_request_rows: the most rows one request may bring; None: no bound.
        latest_versions: how many of the newest versions to serve; None: all.
        specific_versions: serve exactly these; empty: ``latest_versions`` decides.
    """

    batching: BatchingConfig
    intra_op_threads: int
    max_request_rows: int | None = None
    latest_versions: int | None = 1
    specific_versions: tuple[int, ...] = ()

    def choose_versions(self, versions: list[int]) -> list[int]:
        """Which of the versions on disk (ascending) are served.

        Raises:
            ConfigError: a version asked for by number is not there.
        """
        if not self.specific_versions:
            return versions if self.latest_versions is None else versions[-self.latest_versions :]
        missing = sorted(set(self.specific_versions) - set(versions))
        if missing:
            raise ConfigError(f"version_policy asks for version {missing[0]}, found {versions}")
        return sorted(self.specific_versions)


def read_model_config(name: str, content: Mapping[str, Any], defaults: ServerConfig) -> ModelConfig:
    """A model's configuration from its config.json (the JSON form of Triton's ModelConfig).

    Args:
        name: the model's folder.
        content: the JSON object; empty: the defaults.
        defaults: where nothing is said.

    Raises:
        ConfigError: a field is unknown, of the wrong type or has an impossible value.
    """
    message = model_config.ModelConfig()
    try:
        json_format.ParseDict(dict(content), message)
    except json_format.ParseError as error:
        raise ConfigError(f"config.json: {_parse_reason(error)}") from error
    _check_identity(name, message)
    parameters = _integer_parameters(message)
    latest_versions, specific_versions = _version_policy(message)
    threads = parameters.get("intra_op_thread_count", defaults.intra_op_threads)
    _check_threads(threads)
    return ModelConfig(
        batching=_batching(message, parameters, defaults.batching),
        intra_op_threads=threads,
        max_request_rows=message.max_batch_size or None,
        latest_versions=latest_versions,
        specific_versions=specific_versions,
    )


def _parse_reason(error: json_format.ParseError) -> str:
    """The parser's message without the name of our message class and the list of all fields."""
    text = re.sub(r'Message type "[\w.]+" has no field named', "unknown field", str(error))
    return text.splitlines()[0].split(" Available Fields")[0].rstrip(" .")


def _check_identity(name: str, message: model_config.ModelConfig) -> None:
    for key, value, expected in (
        ("name", message.name, name),
        ("platform", message.platform, "onnxruntime_onnx"),
        ("backend", message.backend, "onnxruntime"),
    ):
        if value and value != expected:
            raise ConfigError(f"config.json: {key} is {value!r}, expected {expected!r}")
    if message.max_batch_size < 0:
        raise ConfigError(
            f"config.json: max_batch_size is {message.max_batch_size}, expected 0 or more"
        )


def _integer_parameters(message: model_config.ModelConfig) -> dict[str, int]:
    known = ("intra_op_thread_count", "max_queue_rows")
    values = {}
    for key, parameter in message.parameters.items():
        text = parameter.string_value
        if key not in known:
            raise ConfigError(f"config.json: unknown parameter {key!r}, expected {known}")
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise ConfigError(f"config.json: parameter {key!r} is {text!r}, expected a number")
        values[key] = int(text)
    return values


def _version_policy(message: model_config.ModelConfig) -> tuple[int | None, tuple[int, ...]]:
    policy = message.version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return None, ()
    if choice == "specific":
        if not policy.specific.versions:
            raise ConfigError("config.json: version_policy.specific names no version")
        return None, tuple(policy.specific.versions)
    return max(1, policy.latest.num_versions), ()


def _batching(
    message: model_config.ModelConfig, parameters: Mapping[str, int], defaults: BatchingConfig
) -> BatchingConfig:
    delay_s = defaults.max_queue_delay_s
    if message.HasField("dynamic_batching"):
        delay_s = message.dynamic_batching.max_queue_delay_microseconds / 1e6
    return BatchingConfig(
        max_rows=message.max_batch_size or defaults.max_rows,
        max_queue_delay_s=delay_s,
        max_queue_rows=parameters.get("max_queue_rows", defaults.max_queue_rows),
    )


def _check_threads(threads: int) -> None:
    if not 0 <= threads <= _MAX_THREADS:
        raise ConfigError(f"intra-op threads is {threads}, expected 0 (a thread a core) or more")
