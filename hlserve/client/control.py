"""What a server says of its repository: states, statistics, configurations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import MessageToDict

from hlserve.pb.messages import inference


@dataclass(frozen=True, slots=True)
class ModelState:
    """One version in the repository: ``READY``, ``LOADING``, ``UNLOADING`` or ``UNAVAILABLE``."""

    name: str
    version: str
    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Duration:
    """How often something was done, and how long all of it took, nanoseconds."""

    count: int
    ns: int


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """What one version has done since it was loaded.

    Attributes:
        name: the model.
        version: its version.
        inference_count: rows answered.
        execution_count: runs; joined requests share one.
        last_inference_ms: milliseconds since the epoch; 0: none yet.
        success: requests answered, from the server's door to the answer; the next four are its
            parts.
        queue: waiting.
        compute_input: joining rows.
        compute_infer: running.
        compute_output: taking the answers apart.
        fail: requests that got no answer.
    """

    name: str
    version: str
    inference_count: int
    execution_count: int
    last_inference_ms: int
    success: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    fail: Duration


def model_states(response: inference.RepositoryIndexResponse) -> tuple[ModelState, ...]:
    """Of every model, as the server lists them."""
    return tuple(ModelState(m.name, m.version, m.state, m.reason) for m in response.models)


def model_statistics(response: inference.ModelStatisticsResponse) -> tuple[ModelStatistics, ...]:
    """Of every version asked for."""
    return tuple(_statistics(each) for each in response.model_stats)


def model_config(response: inference.ModelConfigResponse) -> dict[str, Any]:
    """Triton's ModelConfig in its JSON form; names as in config.pbtxt."""
    return MessageToDict(response.config, preserving_proto_field_name=True)


def _statistics(message: inference.ModelStatistics) -> ModelStatistics:
    phases = message.inference_stats
    return ModelStatistics(
        name=message.name,
        version=message.version,
        inference_count=message.inference_count,
        execution_count=message.execution_count,
        last_inference_ms=message.last_inference,
        success=_duration(phases.success),
        queue=_duration(phases.queue),
        compute_input=_duration(phases.compute_input),
        compute_infer=_duration(phases.compute_infer),
        compute_output=_duration(phases.compute_output),
        fail=_duration(phases.fail),
    )


def _duration(message: inference.StatisticDuration) -> Duration:
    return Duration(message.count, message.ns)
