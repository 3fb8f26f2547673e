"""What may stand around every call: a check that refuses it, or something that watches it."""

from __future__ import annotations

from hlserve.serving.transports.context import CallContext


class Stage:
    """Something done around a call; both methods run on the event loop and do not wait.

    One that a stage does not define is not called.
    """

    def begin(self, context: CallContext) -> object:
        """Before the call.

        Returns:
            What ``end`` gets back.

        Raises:
            HlserveError: the call is refused.
        """
        return None

    def end(self, context: CallContext, begun: object, error: BaseException | None) -> None:
        """After the call, however it ended; not called where ``begin`` raised."""
