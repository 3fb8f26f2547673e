"""The protocol's message classes, from one committed descriptor set in a private pool.

A private ``DescriptorPool`` because tritonclient, kserve and mlserver each register the
package ``inference`` in the default one, and two of them in one process die with
``duplicate symbol 'inference.ServerLiveRequest'``. Ours can stand beside any of them.

One namespace a .proto file::

    from hlserve.pb.messages import inference
    inference.ServerLiveRequest()

``python tools/generate_proto.py`` makes the descriptor set and the type stubs again.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

if TYPE_CHECKING:
    from google.protobuf.descriptor_pool import DescriptorPool

    from hlserve.pb import health_pb2 as health
    from hlserve.pb import inference_pb2 as inference
    from hlserve.pb import model_config_pb2 as model_config
    from hlserve.pb import prediction_pb2 as prediction
    from hlserve.pb import reflection_pb2 as reflection
    from hlserve.pb import reflection_v1alpha_pb2 as reflection_v1alpha

FILES = (
    "hlserve/pb/health.proto",
    "hlserve/pb/inference.proto",
    "hlserve/pb/model_config.proto",
    "hlserve/pb/prediction.proto",
    "hlserve/pb/reflection.proto",
    "hlserve/pb/reflection_v1alpha.proto",
)


def _load_pool() -> DescriptorPool:
    data = Path(__file__).with_name("descriptors.pb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.Add(file)  # type: ignore[no-untyped-call]  # stubs leave it untyped
    return pool


POOL = _load_pool()


def message_class(full_name: str) -> type[Message]:
    """The class of a message by its full name, such as ``inference.ModelInferRequest``."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(full_name))


def _namespace(file_name: str) -> SimpleNamespace:
    """Every top-level message class of one .proto file, by its short name."""
    messages = POOL.FindFileByName(file_name).message_types_by_name
    return SimpleNamespace(
        **{
            name: message_factory.GetMessageClass(descriptor)
            for name, descriptor in messages.items()
        }
    )


if not TYPE_CHECKING:
    (
        health,
        inference,
        model_config,
        prediction,
        reflection,
        reflection_v1alpha,
    ) = map(_namespace, FILES)

__all__ = [
    "FILES",
    "POOL",
    "health",
    "inference",
    "message_class",
    "model_config",
    "prediction",
    "reflection",
    "reflection_v1alpha",
]
