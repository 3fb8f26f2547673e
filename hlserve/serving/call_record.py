"""What becomes known of a call while it is answered, for the trace and the log."""

from __future__ import annotations

from hlserve.serving.statistics import Phases


class CallRecord:
    """Filled in by whoever knows; a stage reads it when the call has ended.

    A stream of requests leaves its last request's facts, and the sums of rows and bytes.

    Attributes:
        model: as the client wrote it; empty: the call names none.
        version: the one that answered; before that, as the client wrote it.
        request_id: the client's own.
        rows: rows that were answered.
        request_bytes: size of the messages that came.
        phases: what the last request spent where; None: it was not answered.
        answered_ns: when its answer was there, nanoseconds since the epoch; 0: it was not.
        trace_id: 32 hexadecimal digits; empty: the call belongs to no trace.
    """

    # Defaults of the class, and no constructor: one is made for every call, and few of its facts
    # are written.

    model: str = ""
    version: str = ""
    request_id: str = ""
    rows: int = 0
    request_bytes: int = 0
    phases: Phases | None = None
    answered_ns: int = 0
    trace_id: str = ""

    def asks(self, model: str, version: str, request_id: str = "") -> None:
        """Notes what the client wrote."""
        self.model, self.version, self.request_id = model, version, request_id
