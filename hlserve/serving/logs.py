"""The log: plain lines or JSON, a line a call where it is asked for, and never a flood.

Messages name models, tensors, shapes and peers; no tensor is logged, at most the one value that a
request was refused for. What is not printable is escaped and long texts are cut, since names come
from clients.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

from hlserve.errors import HlserveError
from hlserve.serving.observing import LogConfig
from hlserve.serving.transports.context import CallContext
from hlserve.serving.transports.stage import Stage
from hlserve.serving.transports.status import CANCELLED, INTERNAL, outcome_of

# Lines of one kind within a second; what comes beyond is counted, and told by the next line.
LINES_A_SECOND = 5
MAX_TEXT_CHARS = 200
MAX_MESSAGE_CHARS = 2000

_ACCESS = logging.getLogger("hlserve.access")
_REFUSALS = logging.getLogger("hlserve.refusals")
# Told elsewhere: the transport logs what went wrong here, and a caller that leaves is no news.
_NOT_REFUSED = (INTERNAL, CANCELLED)

# Who logs on behalf of a call, and so as often as clients like. What is logged once a model, at its
# loading, is never held back.
_HELD_BACK = (
    _REFUSALS.name,
    *("hlserve.serving.transports", "hlserve.serving.batching", "hlserve.serving.metrics"),
    *("opentelemetry", "grpc", "asyncio"),
)

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def configure(config: LogConfig, stream: TextIO | None = None) -> None:
    """Sets the process' log up; what was set up before is replaced.

    Args:
        config: level and format.
        stream: stderr where it is not given.
    """
    handler = StderrHandler() if stream is None else logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if config.format == "json" else PlainLines())
    handler.addFilter(NoFlood(time.monotonic))
    logging.basicConfig(level=config.level.upper(), handlers=[handler], force=True)


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stderr`` is when a record comes: it may have been replaced."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record."""
        self.stream = sys.stderr
        super().emit(record)


class CallLog(Stage):
    """A stage that logs refused calls, and with ``access`` every call.

    Args:
        access: a line a call; else only refusals, and those not more than a few a second.
    """

    def __init__(self, *, access: bool) -> None:
        self._access = access

    def end(self, context: CallContext, begun: object, error: BaseException | None) -> None:
        """Writes what there is to write."""
        if error is None and not self._access:
            return
        status = outcome_of(error)
        if self._access:
            took_s = (time.monotonic_ns() - context.arrived_ns) / 1e9
            fields = _fields(context, status, took_s)
            _ACCESS.info("call", extra={"fields": fields})
        if isinstance(error, HlserveError) and status not in _NOT_REFUSED:
            _REFUSALS.info(
                "%s refused, %s: %s",
                *(context.rpc.path, status, error),
                extra={"kind": (context.rpc.path, status)},
            )


class NoFlood(logging.Filter):
    """Lets a few records of a kind through each second, and tells how many it held back.

    A kind is the record's ``kind`` where it has one, else the line of code that logs it.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[object, _Window] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is written."""
        if not record.name.startswith(_HELD_BACK):
            return True
        kind = getattr(record, "kind", None) or (record.pathname, record.lineno)
        window = self._windows.setdefault(kind, _Window())  # RPCs, statuses, lines: few
        now_s = self._clock()
        if now_s - window.began_s >= 1:
            record.suppressed = window.suppressed
            window.began_s, window.written, window.suppressed = now_s, 0, 0
        if window.written >= LINES_A_SECOND:
            window.suppressed += 1
            return False
        window.written += 1
        return True


class _Window:
    __slots__ = ("began_s", "suppressed", "written")

    def __init__(self) -> None:
        self.began_s = float("-inf")
        self.written = 0
        self.suppressed = 0


class PlainLines(logging.Formatter):
    """``time LEVEL logger: message field=value ...``; a traceback, if any, in lines below."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        parts = [
            f"{_time(record)} {record.levelname} {record.name}: {_message(record)}",
            *(f"{name}={_plain(value)}" for name, value in _extras(record).items()),
        ]
        line = " ".join(parts)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """An object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        content: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            **_extras(record),
        }
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        return json.dumps(content, default=str)


# ----- below: what a line says -----


def _fields(context: CallContext, status: str, seconds: float) -> dict[str, Any]:
    record = context.record
    return {
        "method": context.rpc.path,
        "status": status,
        "model": _text(record.model),
        "version": _text(record.version),
        "request_id": _text(record.request_id),
        "duration_ms": round(seconds * 1e3, 3),
        "rows": record.rows,
        "bytes": record.request_bytes,
        "peer": _text(context.peer),
        "trace_id": record.trace_id or _trace_id(context),
    }


def _trace_id(context: CallContext) -> str:
    """The caller's, where this server traces nothing itself."""
    sent = _TRACEPARENT.fullmatch(context.metadata.get("traceparent", ""))
    return sent[1] if sent else "-"


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    extras = dict(getattr(record, "fields", {}))
    if getattr(record, "suppressed", 0):
        extras["suppressed"] = getattr(record, "suppressed", 0)
    return extras


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _message(record: logging.LogRecord) -> str:
    return _escaped(_cut(record.getMessage(), MAX_MESSAGE_CHARS))


def _plain(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if " " in text or '"' in text else text


def _text(text: str) -> str:
    """A client's text as one word of a log; what is not there is a dash."""
    return _escaped(_cut(text, MAX_TEXT_CHARS)) or "-"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}...({len(text)} characters)"


def _escaped(text: str) -> str:
    """Without characters that begin a line, move the cursor or turn the direction of writing."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
