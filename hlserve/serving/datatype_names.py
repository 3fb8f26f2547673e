"""The protocol's datatypes and Triton's enumeration of them in a ModelConfig, either way."""

from __future__ import annotations

from typing import cast

from hlserve.pb.messages import model_config

_PREFIX = "TYPE_"
_VALUES = model_config.ModelInput.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name


def datatype_name(number: int) -> str | None:
    """The protocol's name, such as ``FP32``, of Triton's number; None of TYPE_INVALID."""
    for name, value in _VALUES.items():
        if value.number == number and number:
            text = str(name).removeprefix(_PREFIX)
            return "BYTES" if text == "STRING" else text
    return None


def datatype_number(name: str) -> model_config.DataType:
    """Triton's number of a protocol name."""
    value = _VALUES[_PREFIX + ("STRING" if name == "BYTES" else name)].number
    return cast("model_config.DataType", value)
