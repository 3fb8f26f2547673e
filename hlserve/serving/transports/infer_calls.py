"""ModelInfer, message in and message out, alone and as a message of a stream."""

from __future__ import annotations

import logging
from functools import partial

from hlserve import codec
from hlserve.errors import HlserveError
from hlserve.pb.messages import inference
from hlserve.rpcs import Rpc
from hlserve.serving.dataplane import DataPlane
from hlserve.serving.transports.context import (
    CallContext,
    EncodeAnswer,
    InferCall,
)
from hlserve.serving.transports.infer_messages import (
    asks_for_final_response,
    decode_request,
    encode_response,
)
from hlserve.serving.transports.plain_infer import encoded, plain_infer
from hlserve.serving.transports.status import INTERNAL, INTERNAL_DETAILS, details_of, status_of

_FINAL_RESPONSE = "triton_final_response"

_LOG = logging.getLogger(__name__)


class InferCalls:
    """The calls that run models.

    Args:
        data_plane: what does the work.
        max_tensor_elements: of one input.
        max_message_bytes: of one request's inputs in shared memory.
    """

    def __init__(
        self,
        data_plane: DataPlane,
        max_tensor_elements: int = codec.MAX_MESSAGE_BYTES,
        max_message_bytes: int = codec.MAX_MESSAGE_BYTES,
    ) -> None:
        self._data_plane = data_plane
        self._max_tensor_elements = max_tensor_elements
        self._max_message_bytes = max_message_bytes

    async def model_infer(
        self, request: inference.ModelInferRequest, context: CallContext
    ) -> inference.ModelInferResponse:
        """Runs a request; always answers raw."""
        record = context.record
        record.asks(request.model_name, request.model_version, request.id)
        decoded = decode_request(
            request,
            self._data_plane.shared_memory,
            context.deadline_s,
            max_elements=self._max_tensor_elements,
            max_shared_bytes=self._max_message_bytes,
        )
        encode = partial(encode_response, places=decoded.places)
        answer = await self._data_plane.model_infer(decoded.request)
        return encoded(record, answer, encode)

    def infer(self, encode: EncodeAnswer) -> InferCall:
        """``model_infer`` for a transport that reads and writes plain requests by itself.

        Nothing in it waits: the answer, or an error, is delivered once, perhaps before it returns.
        """
        return plain_infer(self._data_plane.begin_infer, encode)

    async def stream_answer(
        self, request: inference.ModelInferRequest, context: CallContext
    ) -> inference.ModelStreamInferResponse:
        """The answer to one message of a stream; what goes wrong is an answer too."""
        try:
            response = await self.model_infer(request, context)
        except Exception as error:
            return stream_error(error, request.id, context.rpc)
        if asks_for_final_response(request):
            response.parameters[_FINAL_RESPONSE].bool_param = True
        return inference.ModelStreamInferResponse(infer_response=response)


def stream_error(error: Exception, request_id: str, rpc: Rpc) -> inference.ModelStreamInferResponse:
    """The answer to a message of a stream that failed."""
    return inference.ModelStreamInferResponse(
        error_message=stream_error_words(error, rpc),
        infer_response=inference.ModelInferResponse(id=request_id),
    )


def stream_error_words(error: Exception, rpc: Rpc) -> str:
    """The words for a request that failed; what we did not raise on purpose says nothing."""
    if not isinstance(error, HlserveError):
        _LOG.error("%s failed", rpc.path, exc_info=error)
        return INTERNAL_DETAILS
    if status_of(error) == INTERNAL:
        _LOG.error("%s: %s", rpc.path, error)
    return details_of(error)
