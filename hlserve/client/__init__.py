"""Clients: arrays, texts, files or cells in; arrays or labels out.

They need NumPy, grpcio and protobuf only::

    with InferenceClient("localhost:8001") as client:
        result = client.infer("fashion", images)
        result.outputs["probabilities"]
        client.predict("sentiment", ["good food, good staff"]).predictions[0].label

``AsyncInferenceClient`` has the same verbs for asyncio.
"""

from hlserve.client.aio import AsyncInferenceClient
from hlserve.client.answers import (
    InferResult,
    ModelMetadata,
    ServerMetadata,
    TensorMetadata,
    cast_array,
    frontend_of,
)
from hlserve.client.connection import Compression, Tls
from hlserve.client.control import Duration, ModelState, ModelStatistics
from hlserve.client.predicting import Prediction, PredictResult
from hlserve.client.retrying import NO_RETRY, RetryPolicy
from hlserve.client.sync import DEFAULT_TIMEOUT_S, InferenceClient
from hlserve.errors import ServerError

__all__ = [
    "DEFAULT_TIMEOUT_S",
    "NO_RETRY",
    "AsyncInferenceClient",
    "Compression",
    "Duration",
    "InferResult",
    "InferenceClient",
    "ModelMetadata",
    "ModelState",
    "ModelStatistics",
    "PredictResult",
    "Prediction",
    "RetryPolicy",
    "ServerError",
    "ServerMetadata",
    "TensorMetadata",
    "Tls",
    "cast_array",
    "frontend_of",
]
