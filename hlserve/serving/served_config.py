"""How a loaded model is served, as Triton's ModelConfig: what perf_analyzer and clients read."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from hlserve.pb.messages import model_config
from hlserve.serving.model import ServedModel
from hlserve.serving.session import TensorInfo


def served_config(model: ServedModel) -> model_config.ModelConfig:
    """The configuration that holds, defaults filled in.

    ``max_batch_size`` above 0 says that rows may be joined; the batch is then no dimension of the
    tensors. A model whose rows must stay apart has 0, and dimensions with the batch.
    """
    config = model.config
    content: dict[str, Any] = {
        "name": model.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "default_model_filename": "model.onnx",
        "version_policy": _version_policy(model),
        "max_batch_size": 0,
        "input": [_tensor(tensor, model.joins) for tensor in model.session.inputs],
        "output": [_tensor(tensor, model.joins) for tensor in model.session.outputs],
    }
    if model.joins:
        delay_us = round(config.batching.max_queue_delay_s * 1e6)
        content["max_batch_size"] = config.max_request_rows or config.batching.max_rows
        content["dynamic_batching"] = {"max_queue_delay_microseconds": str(delay_us)}
    message = model_config.ModelConfig()
    return json_format.ParseDict(content, message, ignore_unknown_fields=True)


def _version_policy(model: ServedModel) -> dict[str, Any]:
    config = model.config
    if config.specific_versions:
        return {"specific": {"versions": [str(number) for number in config.specific_versions]}}
    if config.latest_versions is None:
        return {"all": {}}
    return {"latest": {"num_versions": config.latest_versions}}


def _tensor(tensor: TensorInfo, joins: bool) -> dict[str, Any]:
    name = tensor.datatype.name
    return {
        "name": tensor.name,
        "data_type": f"TYPE_{'STRING' if name == 'BYTES' else name}",
        "dims": [str(dim) for dim in tensor.shape[joins:]],
    }
