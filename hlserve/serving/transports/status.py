"""THE table of statuses: which gRPC status an error becomes, for every transport."""

from __future__ import annotations

import asyncio

from hlserve import errors
from hlserve.errors import HlserveError

OK = "OK"
CANCELLED = "CANCELLED"
INTERNAL = "INTERNAL"
INTERNAL_DETAILS = "internal error; the server's log says more"

# gRPC's status names and numbers (grpc/doc/statuscodes.md), those that we use.
STATUS_NUMBERS = {
    "CANCELLED": 1,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "UNIMPLEMENTED": 12,
    INTERNAL: 13,
    "UNAVAILABLE": 14,
    "UNAUTHENTICATED": 16,
}

# Where we differ from Triton: an expired deadline is DEADLINE_EXCEEDED, there UNAVAILABLE.
STATUSES: dict[type[HlserveError], str] = {
    errors.HlserveError: INTERNAL,
    errors.UsageError: "INVALID_ARGUMENT",
    errors.DataError: "INVALID_ARGUMENT",
    errors.ConfigError: "INVALID_ARGUMENT",
    errors.ModelFileError: "INVALID_ARGUMENT",
    errors.SchemaVersionError: "INVALID_ARGUMENT",
    errors.MissingDependencyError: INTERNAL,
    errors.RepositoryError: INTERNAL,
    errors.NotFoundError: "NOT_FOUND",
    errors.ModelNotFoundError: "NOT_FOUND",
    errors.VersionNotFoundError: "NOT_FOUND",
    errors.AlreadyExistsError: "ALREADY_EXISTS",
    errors.InvalidRequestError: "INVALID_ARGUMENT",
    errors.UnauthenticatedError: "UNAUTHENTICATED",
    errors.PermissionDeniedError: "PERMISSION_DENIED",
    errors.UnsupportedError: "UNIMPLEMENTED",
    errors.UnavailableError: "UNAVAILABLE",
    errors.ModelNotReadyError: "UNAVAILABLE",
    errors.QueueFullError: "UNAVAILABLE",
    errors.QueueTimeoutError: "UNAVAILABLE",
    # Not RESOURCE_EXHAUSTED: client libraries try again on UNAVAILABLE, and that is right here.
    errors.TooManyRequestsError: "UNAVAILABLE",
    errors.ShuttingDownError: "UNAVAILABLE",
    errors.DeadlineExceededError: "DEADLINE_EXCEEDED",
    errors.CancelledError: "CANCELLED",
    errors.InferenceError: INTERNAL,
    errors.ProviderError: INTERNAL,
    errors.TrainingError: INTERNAL,
    errors.DivergenceError: INTERNAL,
    errors.CompressionError: INTERNAL,
    errors.UnsupportedModelError: INTERNAL,
    errors.BoundNotMetError: INTERNAL,
    errors.ServerError: INTERNAL,
}

# Details travel in a header, and clients take 8 KiB of headers: a 10 kB model name, quoted back,
# would turn NOT_FOUND into a broken answer. The rest of the headers keeps the other half.
_MAX_DETAILS_BYTES = 4096
_CUT = " ... "


def status_of(error: HlserveError) -> str:
    """The status name of an error; a class that is not in the table takes its nearest parent's."""
    return next(STATUSES[cls] for cls in type(error).__mro__ if cls in STATUSES)


def outcome_of(error: BaseException | None) -> str:
    """The status name of a call that ended so, for counters, traces and the log; None: OK."""
    if error is None:
        return OK
    if isinstance(error, HlserveError):
        return status_of(error)
    if isinstance(error, asyncio.CancelledError | GeneratorExit):  # the caller went away
        return CANCELLED
    return INTERNAL


def details_of(error: HlserveError) -> str:
    """The text for the client, cut in the middle where it is too long for a header."""
    text = str(error)
    # The longest character is four bytes, each sent as three: most texts need no counting.
    if len(text) * 12 <= _MAX_DETAILS_BYTES or _sent_bytes(text) <= _MAX_DETAILS_BYTES:
        return text
    half = (_MAX_DETAILS_BYTES - len(_CUT)) // 2
    return f"{_begin(text, half)}{_CUT}{_begin(text[::-1], half)[::-1]}"


def _begin(text: str, most: int) -> str:
    """As many characters as travel in ``most`` bytes."""
    total = 0
    for count, char in enumerate(text):
        total += _sent_bytes(char)
        if total > most:
            return text[:count]
    return text


def _sent_bytes(text: str) -> int:
    """What gRPC's percent-encoding makes of a text: three bytes of all but printable ASCII.

    SOURCE: PROTOCOL-HTTP2, "Status-Message": 0x20 to 0x7E but for "%" go as they are.
    """
    data = text.encode("utf-8", "replace")
    return len(data) + 2 * sum(byte < 0x20 or byte > 0x7E or byte == 0x25 for byte in data)
