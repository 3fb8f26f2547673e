"""THE table of RPCs: what every transport serves, the client calls and the tests iterate over.

A transport makes its handlers from these rows; ``call`` names the method of
``hlserve.serving.transports.calls.Calls`` that answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Triton's protocol groups (--grpc-restricted-protocol).
Group = Literal[
    "health",
    "metadata",
    "inference",
    "shared-memory",
    "model-config",
    "model-repository",
    "statistics",
    "trace",
    "logging",
]
Scope = Literal["process", "every", "sum"]


@dataclass(frozen=True, slots=True)
class Rpc:
    """One RPC.

    Attributes:
        service: full name of the service.
        name: the method's name.
        request: full name of the request message.
        response: full name of the response message.
        call: the method of ``Calls`` that answers.
        group: the name by which API keys are asked for it; Triton's names.
        streams_request: the client sends many messages.
        streams_response: the server sends many messages.
        scope: where several processes serve one port: ``process``, the one that got the call
            answers; ``every``, it takes effect in each of them before the answer; ``sum``, the
            answers of all are added up.
    """

    service: str
    name: str
    request: str
    response: str
    call: str
    group: Group
    streams_request: bool = False
    streams_response: bool = False
    scope: Scope = "process"

    @property
    def path(self) -> str:
        """The HTTP/2 path, such as ``/inference.GRPCInferenceService/ModelInfer``."""
        return f"/{self.service}/{self.name}"


INFERENCE_SERVICE = "inference.GRPCInferenceService"
PREDICTION_SERVICE = "hlserve.v1.Prediction"
HEALTH_SERVICE = "grpc.health.v1.Health"
REFLECTION_SERVICES = (
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)


def _inference(name: str, call: str, group: Group, scope: Scope = "process") -> Rpc:
    return Rpc(
        INFERENCE_SERVICE,
        name,
        f"inference.{name}Request",
        f"inference.{name}Response",
        call,
        group,
        scope=scope,
    )


def _health(name: str, call: str, *, streams_response: bool = False) -> Rpc:
    messages = "grpc.health.v1.HealthCheck"
    return Rpc(
        HEALTH_SERVICE,
        name,
        f"{messages}Request",
        f"{messages}Response",
        call,
        "health",
        streams_response=streams_response,
    )


def _prediction(name: str, call: str, response: str, *, streams: bool = False) -> Rpc:
    return Rpc(
        PREDICTION_SERVICE,
        name,
        "hlserve.v1.PredictRequest",
        f"hlserve.v1.{response}",
        call,
        "inference",
        streams_request=streams,
        streams_response=streams,
    )


def _reflection(service: str) -> Rpc:
    return Rpc(
        service,
        "ServerReflectionInfo",
        f"{service}Request",
        f"{service}Response",
        "server_reflection_info",
        "metadata",
        streams_request=True,
        streams_response=True,
    )


RPCS = (
    _inference("ServerLive", "server_live", "health"),
    _inference("ServerReady", "server_ready", "health"),
    _inference("ModelReady", "model_ready", "health"),
    _inference("ServerMetadata", "server_metadata", "metadata"),
    _inference("ModelMetadata", "model_metadata", "metadata"),
    _inference("ModelInfer", "model_infer", "inference"),
    Rpc(
        INFERENCE_SERVICE,
        "ModelStreamInfer",
        "inference.ModelInferRequest",
        "inference.ModelStreamInferResponse",
        "model_stream_infer",
        "inference",
        streams_request=True,
        streams_response=True,
    ),
    _inference("ModelConfig", "model_config", "model-config"),
    _inference("ModelStatistics", "model_statistics", "statistics", "sum"),
    _inference("RepositoryIndex", "repository_index", "model-repository"),
    _inference("RepositoryModelLoad", "repository_model_load", "model-repository", "every"),
    _inference("RepositoryModelUnload", "repository_model_unload", "model-repository", "every"),
    _inference("SystemSharedMemoryStatus", "system_shared_memory_status", "shared-memory"),
    _inference(
        "SystemSharedMemoryRegister", "system_shared_memory_register", "shared-memory", "every"
    ),
    _inference(
        "SystemSharedMemoryUnregister", "system_shared_memory_unregister", "shared-memory", "every"
    ),
    _inference("CudaSharedMemoryStatus", "cuda_shared_memory_status", "shared-memory"),
    _inference("CudaSharedMemoryRegister", "cuda_shared_memory_register", "shared-memory"),
    _inference("CudaSharedMemoryUnregister", "cuda_shared_memory_unregister", "shared-memory"),
    _inference("TraceSetting", "trace_setting", "trace", "every"),
    _inference("LogSettings", "log_settings", "logging", "every"),
    _health("Check", "health_check"),
    _health("Watch", "health_watch", streams_response=True),
    _prediction("Predict", "predict", "PredictResponse"),
    _prediction("PredictStream", "predict_stream", "PredictStreamResponse", streams=True),
    *(_reflection(service) for service in REFLECTION_SERVICES),
)

SERVICES = tuple(dict.fromkeys(rpc.service for rpc in RPCS))


def find(name: str, service: str = INFERENCE_SERVICE) -> Rpc:
    """The row of one RPC.

    Raises:
        LookupError: the table has no such row.
    """
    for rpc in RPCS:
        if (rpc.service, rpc.name) == (service, name):
            return rpc
    raise LookupError(f"no RPC {service}/{name} in the table")


def by_path(path: str) -> Rpc:
    """The row of one HTTP/2 path.

    Raises:
        LookupError: the table has no such row.
    """
    for rpc in RPCS:
        if rpc.path == path:
            return rpc
    raise LookupError(f"no RPC {path} in the table")
