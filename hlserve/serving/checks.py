"""Whether a request fits its model: names, datatypes, shapes, rows; messages say all four."""

from __future__ import annotations

from collections.abc import Sequence

from hlserve import datatypes
from hlserve.errors import InvalidRequestError
from hlserve.serving.model import ServedModel
from hlserve.serving.request import Array, InferRequest
from hlserve.serving.session import TensorInfo

_MAX_ACCEPTED = 512


def check_request(model: ServedModel, request: InferRequest) -> None:
    """Checks the inputs and the requested outputs against the model.

    Raises:
        InvalidRequestError: they do not fit; the message names model, tensor, expected and got.
    """
    if request.signature is not None and request.signature in model.accepted:
        return
    _check_input_names(model, request)
    for tensor in model.session.inputs:
        _check_input(model.label, tensor, request.inputs[tensor.name])
    if model.joins:
        _check_rows(model, request)
    _check_outputs(model, request.outputs)
    if request.signature is not None:
        if len(model.accepted) >= _MAX_ACCEPTED:
            model.accepted.clear()
        model.accepted.add(request.signature)


def _check_input_names(model: ServedModel, request: InferRequest) -> None:
    expected = [tensor.name for tensor in model.session.inputs]
    missing = [name for name in expected if name not in request.inputs]
    unexpected = [name for name in request.inputs if name not in set(expected)]
    if not missing and not unexpected:
        return
    parts = [f"missing {missing}"] if missing else []
    parts += [f"unexpected {unexpected}"] if unexpected else []
    raise InvalidRequestError(
        f"{model.label}: expected the inputs {expected}, got {list(request.inputs)}: "
        f"{', '.join(parts)}"
    )


def _check_input(label: str, tensor: TensorInfo, array: Array) -> None:
    datatype = datatypes.of_array(array)
    if datatype is not tensor.datatype:
        raise InvalidRequestError(
            f"{label}: input {tensor.name!r} has datatype {datatype.name}, "
            f"expected {tensor.datatype.name}"
        )
    if not _fits(array.shape, tensor.shape):
        raise InvalidRequestError(
            f"{label}: input {tensor.name!r} has shape {list(array.shape)}, "
            f"expected {list(tensor.shape)} (-1 = any)"
        )


def _fits(shape: Sequence[int], declared: Sequence[int]) -> bool:
    if not declared:
        return True  # a scalar or a rank not stated: ONNX Runtime does not say which
    return len(shape) == len(declared) and all(
        want in (-1, got) for got, want in zip(shape, declared, strict=True)
    )


def _check_rows(model: ServedModel, request: InferRequest) -> None:
    rows = {name: array.shape[0] for name, array in request.inputs.items()}
    if len(set(rows.values())) > 1:
        raise InvalidRequestError(
            f"{model.label}: the inputs differ in their number of rows, {rows}, expected one"
        )
    limit = model.config.max_request_rows
    count = next(iter(rows.values()))
    if limit is not None and count > limit:
        raise InvalidRequestError(
            f"{model.label}: the request has {count} rows, expected at most {limit}"
        )


def _check_outputs(model: ServedModel, outputs: Sequence[str]) -> None:
    if not outputs:
        return
    known = [tensor.name for tensor in model.session.outputs]
    left = set(known)
    for name in outputs:  # ends after as many as the model has, however many were asked for
        if name in left:
            left.remove(name)
        elif name in known:
            raise InvalidRequestError(
                f"{model.label}: output {name!r} is requested twice, expected once"
            )
        else:
            raise InvalidRequestError(
                f"{model.label}: unknown output {name!r}, expected one of {known}"
            )
