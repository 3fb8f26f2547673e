"""The table of execution providers, and the import of ONNX Runtime that goes with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import ModuleType

from hlserve.errors import ConfigError, MissingDependencyError, ProviderError

# Option value -> what ONNX Runtime is asked for, in order. A CPU fallback stands in the list
# because single nodes may have no kernel elsewhere; session.py checks that the first one is there.
PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
_ON_GPU = ("CUDAExecutionProvider", "TensorrtExecutionProvider")


def import_onnxruntime() -> ModuleType:
    """ONNX Runtime, with its telemetry off and its own log silenced (errors come as exceptions).

    Raises:
        MissingDependencyError: neither ``onnxruntime`` nor ``onnxruntime-gpu`` is installed.
    """
    # Read at import: without it 1.31 writes an id to disk, and warns where it cannot.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime  # type: ignore[import-untyped]  # ships no types
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            'ONNX Runtime is not installed: pip install "hlserve[cpu]" '
            '(or "hlserve[gpu]" beside an NVIDIA GPU)'
        ) from error
    onnxruntime.set_default_logger_severity(4)
    module: ModuleType = onnxruntime
    return module


def execution_providers(name: str) -> tuple[str, ...]:
    """What to ask ONNX Runtime for.

    Raises:
        ConfigError: no such provider in the table.
        ProviderError: this installation does not have it.
    """
    if name not in PROVIDERS:
        raise ConfigError(f"unknown provider {name!r}, expected one of {', '.join(PROVIDERS)}")
    wanted = PROVIDERS[name]
    onnxruntime = import_onnxruntime()
    if name != "cpu":
        onnxruntime.preload_dlls()
    available = onnxruntime.get_available_providers()
    if wanted[0] not in available:
        raise ProviderError(
            f"provider {name!r} needs {wanted[0]}, this ONNX Runtime has {', '.join(available)}; "
            'for an NVIDIA GPU: pip install "hlserve[gpu]"'
        )
    return wanted


def provider_options(
    providers: tuple[str, ...], device: int | None, options: Mapping[str, str]
) -> list[dict[str, str]]:
    """One map a provider: the device to those on a GPU, the options to the first.

    Raises:
        ConfigError: options for the CPU, which has none.
    """
    if options and providers[0] not in _ON_GPU:
        raise ConfigError(f"{providers[0]} takes no options, got {sorted(options)}")
    made: list[dict[str, str]] = [
        {"device_id": str(device)} if device is not None and name in _ON_GPU else {}
        for name in providers
    ]
    made[0] |= options
    return made
