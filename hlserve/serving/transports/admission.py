"""How many calls are taken at once: what is beyond is refused at once, and never queues."""

from __future__ import annotations

from hlserve.errors import TooManyRequestsError
from hlserve.serving.limits import LimitsConfig
from hlserve.serving.transports.context import CallContext
from hlserve.serving.transports.stage import Stage


class Admission(Stage):
    """A stage that counts calls and the bytes of their requests.

    Args:
        limits: how many of each.
    """

    def __init__(self, limits: LimitsConfig) -> None:
        self._limits = limits
        self._requests = 0
        self._bytes = 0

    def begin(self, context: CallContext) -> int:
        """Takes the call; answers how many bytes it was counted with, -1 where it is not counted.

        Raises:
            TooManyRequestsError: as many as may be are in flight.
        """
        if context.rpc.group == "health":
            return -1
        if self._requests >= self._limits.max_concurrent_requests:
            raise TooManyRequestsError(
                f"{self._requests} requests are in flight, as many as this server takes at once: "
                "try again later"
            )
        size_bytes = self._bytes + context.record.request_bytes
        # A request alone may always run: it was held to max_message_bytes already.
        if self._requests and size_bytes > self._limits.max_in_flight_bytes:
            raise TooManyRequestsError(
                f"the requests in flight would hold {size_bytes} bytes, this server takes "
                f"{self._limits.max_in_flight_bytes} at once: try again later"
            )
        self._requests += 1
        self._bytes = size_bytes
        return context.record.request_bytes

    def end(self, context: CallContext, begun: object, error: BaseException | None) -> None:
        """Makes room."""
        if isinstance(begun, int) and begun >= 0:
            self._requests -= 1
            self._bytes -= begun
