"""THE table of statuses: which gRPC status an error becomes, for every transport."""

from __future__ import annotations

from hlserve import errors
from hlserve.errors import HlserveError

INTERNAL = "INTERNAL"
INTERNAL_DETAILS = "internal error; the server's log says more"

# gRPC's status names and numbers (grpc/doc/statuscodes.md), those that we use.
STATUS_NUMBERS = {
    "CANCELLED": 1,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "UNIMPLEMENTED": 12,
    INTERNAL: 13,
    "UNAVAILABLE": 14,
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
    errors.UnsupportedError: "UNIMPLEMENTED",
    errors.UnavailableError: "UNAVAILABLE",
    errors.ModelNotReadyError: "UNAVAILABLE",
    errors.QueueFullError: "UNAVAILABLE",
    errors.QueueTimeoutError: "UNAVAILABLE",
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
# would turn NOT_FOUND into a broken answer.
_MAX_DETAILS_CHARS = 1000


def status_of(error: HlserveError) -> str:
    """The status name of an error; a class that is not in the table takes its nearest parent's."""
    return next(STATUSES[cls] for cls in type(error).__mro__ if cls in STATUSES)


def details_of(error: HlserveError) -> str:
    """The text for the client, cut in the middle where it is too long for a header."""
    text = str(error)
    if len(text) <= _MAX_DETAILS_CHARS:
        return text
    half = _MAX_DETAILS_CHARS // 2
    return f"{text[:half]} ... {text[-half:]}"
