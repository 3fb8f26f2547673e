"""gRPC server reflection over our private descriptor pool: one answer a question, no transport."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FileDescriptor

from hlserve.errors import InvalidRequestError, NotFoundError
from hlserve.pb.messages import POOL
from hlserve.rpcs import SERVICES

if TYPE_CHECKING:
    from hlserve.pb import reflection_pb2, reflection_v1alpha_pb2

    Request = (
        reflection_pb2.ServerReflectionRequest | reflection_v1alpha_pb2.ServerReflectionRequest
    )

# gRPC's numbers, which the protocol puts into its error answers.
_STATUS_NUMBERS = {NotFoundError: 5, InvalidRequestError: 3}


def answer(request: Request, response: Any) -> Any:
    """Fills ``response`` (of the request's protocol version) with the answer, and returns it."""
    response.valid_host = request.host
    response.original_request.CopyFrom(request)
    try:
        _fill(request, response)
    except (NotFoundError, InvalidRequestError) as error:
        response.error_response.error_code = _STATUS_NUMBERS[type(error)]
        response.error_response.error_message = str(error)
    return response


def _fill(request: Request, response: Any) -> None:
    question = request.WhichOneof("message_request")
    if question == "list_services":
        for name in SERVICES:
            response.list_services_response.service.add(name=name)
    elif question == "file_by_filename":
        _add_files(response, _file_by_name(request.file_by_filename))
    elif question == "file_containing_symbol":
        _add_files(response, _file_of_symbol(request.file_containing_symbol))
    elif question == "all_extension_numbers_of_type":
        name = request.all_extension_numbers_of_type
        _file_of_symbol(name)
        response.all_extension_numbers_response.base_type_name = name  # proto3: no extensions
    elif question == "file_containing_extension":
        raise NotFoundError("the services of this server have no extensions")
    else:
        raise InvalidRequestError("the reflection request asks nothing")


def _file_by_name(name: str) -> FileDescriptor:
    try:
        return POOL.FindFileByName(name)
    except KeyError as error:
        raise NotFoundError(f"file {name!r} is unknown") from error


def _file_of_symbol(symbol: str) -> FileDescriptor:
    try:
        return POOL.FindFileContainingSymbol(symbol)
    except KeyError as error:
        raise NotFoundError(f"symbol {symbol!r} is unknown") from error


def _add_files(response: Any, file: FileDescriptor) -> None:
    """The file and everything it imports, each once."""
    pending, seen = [file], set()
    while pending:
        current = pending.pop()
        if current.name not in seen:
            seen.add(current.name)
            response.file_descriptor_response.file_descriptor_proto.append(current.serialized_pb)
            pending.extend(current.dependencies)
