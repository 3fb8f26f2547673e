"""Instances, the things a caller asks about, to a model's input arrays.

Numbers take the model's shape; texts, files and cells go through the front end that was published
with the model. Everything is checked here, and an error says which instance it is about.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlserve.codec import MAX_DIMS, MAX_MESSAGE_BYTES
from hlserve.errors import DataError, InvalidRequestError, MissingDependencyError, UnsupportedError
from hlserve.frontend import FrontEnd, ItemKind, Table, item_kind
from hlserve.serving.session import TensorInfo

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Numbers:
    """Values row-major, float64; ``shape`` without the row, () where their count says it."""

    values: Array
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Cells:
    """A row of a table: numbers, texts or None by column name."""

    by_name: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NamedNumbers:
    """Numbers for each of a model's inputs."""

    by_name: Mapping[str, Numbers]


# A text or a file's content come as they are.
Instance = Numbers | Cells | NamedNumbers | str | bytes

_KINDS = {Numbers: "numbers", Cells: "fields", NamedNumbers: "inputs", str: "text", bytes: "blob"}
_KIND_OF_ITEMS: Mapping[ItemKind, type] = {
    "text": str,
    "sound": bytes,
    "image": bytes,
    "columns": Cells,
}


def kind_of(instances: Sequence[Instance | None]) -> type:
    """The one kind of all instances.

    Raises:
        InvalidRequestError: there is none, one holds nothing, or they are of several kinds.
    """
    if not instances:
        raise InvalidRequestError("there are no instances, expected at least one")
    first = type(instances[0])
    for number, instance in enumerate(instances):
        if instance is None:
            raise InvalidRequestError(
                f"instance {number} holds nothing, expected one of {', '.join(_KINDS.values())}"
            )
        if type(instance) is not first:
            raise InvalidRequestError(
                f"instance {number} is {_KINDS[type(instance)]}, instance 0 {_KINDS[first]}: "
                "expected one kind in a request"
            )
    return first


def numeric_inputs(
    instances: Sequence[Numbers | NamedNumbers], tensors: Sequence[TensorInfo]
) -> dict[str, Array]:
    """Arrays by input name, a row an instance.

    Raises:
        InvalidRequestError: a name, a count, a shape or a value does not fit.
    """
    named = [_by_name(instance, tensors, f"instance {n}") for n, instance in enumerate(instances)]
    return {
        tensor.name: _joined([_row(n, values[tensor.name], tensor) for n, values in named], tensor)
        for tensor in tensors
    }


def front_end_inputs(
    instances: Sequence[Cells | str | bytes], front_end: FrontEnd, tensors: Sequence[TensorInfo]
) -> dict[str, Array]:
    """Arrays by input name, a row an instance, made by the model's front end. May take long.

    A text never reaches a front end of files, which would take it for a path.

    Raises:
        InvalidRequestError: instances of another kind, an unknown column, or an item that the
            front end refuses.
        UnsupportedError: the server lacks a library that reads such files.
    """
    wanted = _KIND_OF_ITEMS[item_kind(front_end)]
    if type(instances[0]) is not wanted:
        raise InvalidRequestError(
            f"instance 0 is {_KINDS[type(instances[0])]}, expected {_KINDS[wanted]}: the model "
            f"takes {item_kind(front_end)} ({type(front_end).__name__})"
        )
    items = [_item(n, instance, front_end) for n, instance in enumerate(instances)]
    try:
        arrays = front_end.apply(items)
    except DataError as error:
        # Front ends call what they are given "item N".
        raise InvalidRequestError(str(error).replace("item ", "instance ", 1)) from error
    except MissingDependencyError as error:
        raise UnsupportedError(f"this server cannot read such files: {error}") from error
    return {tensor.name: _made(arrays, tensor, front_end) for tensor in tensors}


def text_inputs(
    instances: Sequence[str | bytes], tensors: Sequence[TensorInfo]
) -> dict[str, Array]:
    """Texts and bytes for a model whose only input is BYTES, one element an instance.

    Raises:
        InvalidRequestError: the model takes something else.
    """
    if len(tensors) != 1 or tensors[0].datatype.name != "BYTES":
        takes = ", ".join(f"{tensor.name!r} {tensor.datatype.name}" for tensor in tensors)
        raise InvalidRequestError(
            f"instance 0 is {_KINDS[type(instances[0])]}, but the model has no front end and takes "
            f"{takes}: expected numbers"
        )
    elements = np.empty(len(instances), dtype=object)
    elements[:] = [text.encode() if isinstance(text, str) else text for text in instances]
    return {tensors[0].name: elements.reshape(len(instances), *_ones(tensors[0]))}


# ----- numbers


def _by_name(
    instance: Numbers | NamedNumbers, tensors: Sequence[TensorInfo], where: str
) -> tuple[str, Mapping[str, Numbers]]:
    expected = [tensor.name for tensor in tensors]
    if isinstance(instance, Numbers):
        if len(expected) != 1:
            raise InvalidRequestError(
                f"{where} is numbers, but the model has the inputs {expected}: expected inputs"
            )
        return where, {expected[0]: instance}
    missing = [name for name in expected if name not in instance.by_name]
    unknown = [name for name in instance.by_name if name not in set(expected)]
    if missing or unknown:
        raise InvalidRequestError(
            f"{where} has the inputs {sorted(instance.by_name)}, expected {expected}: "
            + ", ".join(
                [f"missing {name!r}" for name in missing]
                + [f"unknown {name!r}" for name in unknown]
            )
        )
    return where, instance.by_name


def _row(where: str, numbers: Numbers, tensor: TensorInfo) -> Array:
    where = f"{where}, input {tensor.name!r}"
    shape = _row_shape(where, numbers, tensor)
    return _cast(where, numbers.values, tensor).reshape(shape)


def _row_shape(where: str, numbers: Numbers, tensor: TensorInfo) -> tuple[int, ...]:
    """The row's shape: as it was said, or the model's with its one open dimension worked out."""
    declared, count = tensor.shape[1:], len(numbers.values)
    if numbers.shape:
        _check_shape(where, numbers, tensor)
        return numbers.shape
    unknown = declared.count(-1)
    if unknown > 1:
        raise InvalidRequestError(
            f"{where}: {count} numbers without a shape, expected one that fits {list(declared)} "
            "(-1 = any)"
        )
    known = math.prod(dim for dim in declared if dim != -1)
    if not unknown and count != known:
        raise InvalidRequestError(
            f"{where}: {count} numbers, expected {known} for the shape {list(declared)}"
        )
    if unknown and (not known or not count or count % known):
        raise InvalidRequestError(
            f"{where}: {count} numbers, expected a multiple of {known} for the shape "
            f"{list(declared)} (-1 = any)"
        )
    return tuple(count // known if dim == -1 else dim for dim in declared)


def _check_shape(where: str, numbers: Numbers, tensor: TensorInfo) -> None:
    shape, declared = numbers.shape, tensor.shape[1:]
    fits = len(shape) == len(declared) and all(
        want in (-1, got) for got, want in zip(shape, declared, strict=True)
    )
    if not tensor.shape:  # a rank that the graph does not state
        fits = True
    if len(shape) >= MAX_DIMS:  # the rows' dimension comes to them
        raise InvalidRequestError(
            f"{where}: shape of {len(shape)} dimensions, expected at most {MAX_DIMS - 1}"
        )
    if not fits or min(shape) < 0:
        raise InvalidRequestError(
            f"{where}: shape {list(shape)}, expected {list(declared)} (-1 = any)"
        )
    # Zero dimensions aside, so that [0, 2**62] is refused here and not by an allocator.
    if math.prod(dim for dim in shape if dim) > MAX_MESSAGE_BYTES:
        raise InvalidRequestError(f"{where}: shape {list(shape)} holds too many numbers")
    if math.prod(shape) != len(numbers.values):
        raise InvalidRequestError(
            f"{where}: {len(numbers.values)} numbers, expected {math.prod(shape)} for the shape "
            f"{list(shape)}"
        )


def _cast(where: str, values: Array, tensor: TensorInfo) -> Array:
    """In the input's datatype, no value changed but for a float's precision."""
    dtype = tensor.datatype.dtype
    if not np.isfinite(values).all():
        place = int(np.flatnonzero(~np.isfinite(values))[0])
        raise InvalidRequestError(f"{where}: number {place} is {values[place]}, expected finite")
    if dtype.kind == "O":
        raise InvalidRequestError(f"{where} takes texts, got numbers: expected text")
    with np.errstate(all="ignore"):  # checked below
        cast: Array = values.astype(dtype)
        changed = ~np.isfinite(cast) if dtype.kind == "f" else cast.astype(np.float64) != values
    if changed.any():
        place = int(np.flatnonzero(changed)[0])
        raise InvalidRequestError(
            f"{where}: number {place} is {values[place]:g}, expected a value of "
            f"{tensor.datatype.name}"
        )
    return cast


def _joined(rows: Sequence[Array], tensor: TensorInfo) -> Array:
    for number, row in enumerate(rows):
        if row.shape != rows[0].shape:
            raise InvalidRequestError(
                f"instance {number}, input {tensor.name!r}: shape {list(row.shape)}, instance 0 "
                f"has {list(rows[0].shape)}: expected one shape in a request"
            )
    return np.stack(rows)


# ----- what a front end takes and makes


def _item(number: int, instance: Cells | str | bytes, front_end: FrontEnd) -> Any:
    if not isinstance(instance, Cells) or not isinstance(front_end, Table):
        return instance
    known = set(front_end.names)
    unknown = [name for name in instance.by_name if name not in known]
    if unknown:
        raise InvalidRequestError(
            f"instance {number} has the unknown field {unknown[0]!r}, expected "
            f"{', '.join(map(repr, front_end.names))}"
        )
    return instance.by_name


def _made(arrays: Mapping[str, Array], tensor: TensorInfo, front_end: FrontEnd) -> Array:
    """What a front end made, as the model takes it: flat where it is, in its datatype."""
    array = arrays.get(tensor.name)
    if array is None:
        raise UnsupportedError(
            f"the model takes the input {tensor.name!r}, its front end "
            f"({type(front_end).__name__}) makes {', '.join(map(repr, arrays))}"
        )
    shape = tensor.shape[1:]
    if -1 not in shape and math.prod(shape) == math.prod(array.shape[1:]):
        array = array.reshape(len(array), *shape)
    return array.astype(tensor.datatype.dtype, copy=False)


def _ones(tensor: TensorInfo) -> tuple[int, ...]:
    return (1,) * max(0, len(tensor.shape) - 1)
