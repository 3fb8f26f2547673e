"""Every exception that hlserve and compress raise on purpose.

    HlserveError
    ├── UsageError               a value given by the user is unusable
    │   ├── DataError            rows, labels or a data file
    │   ├── ConfigError          a configuration, option or recipe
    │   └── ModelFileError       a model, checkpoint or metadata file
    │       └── SchemaVersionError   written by a newer hlserve
    ├── MissingDependencyError   an optional package is not installed
    ├── RepositoryError          the model repository on disk
    ├── NotFoundError
    │   ├── ModelNotFoundError
    │   └── VersionNotFoundError
    ├── AlreadyExistsError       something of that name is there already
    ├── InvalidRequestError      a request that does not fit the protocol or the model
    ├── UnsupportedError         a call that this server or model does not offer
    ├── UnavailableError
    │   ├── ModelNotReadyError
    │   ├── QueueFullError
    │   ├── QueueTimeoutError
    │   └── ShuttingDownError
    ├── DeadlineExceededError    the caller's deadline passed before the run
    ├── CancelledError           the caller went away before the run
    ├── InferenceError           ONNX Runtime failed on a request
    ├── ProviderError            an execution provider that was asked for is missing
    ├── TrainingError
    │   └── DivergenceError      NaN or infinity, with the layer that first showed it
    ├── CompressionError
    │   ├── UnsupportedModelError    a graph that a technique or the importer cannot take
    │   └── BoundNotMetError     nothing passed; carries the nearest miss
    └── ServerError              what a server answered, seen from the client

A message says where, what came, what was expected and how to mend it. This
module imports nothing and knows no transport: serving maps these classes to
statuses in one table, the command line maps them to exit codes in another.
"""


class HlserveError(Exception):
    """The root: catching it catches everything that hlserve raises on purpose."""


class UsageError(HlserveError, ValueError):
    """A value that the user gave is unusable."""


class DataError(UsageError):
    """Rows, labels or a data file are missing, malformed or of the wrong shape."""


class ConfigError(UsageError):
    """A configuration value, option or recipe is wrong."""


class ModelFileError(UsageError):
    """A model, checkpoint or metadata file cannot be read."""


class SchemaVersionError(ModelFileError):
    """A file was written by a newer hlserve than the one that reads it."""


class MissingDependencyError(HlserveError, ImportError):
    """An optional package is needed and not installed; the message says the command."""


class RepositoryError(HlserveError):
    """The model repository on disk is malformed or cannot be written."""


class NotFoundError(HlserveError, LookupError):
    """Something that was asked for by name does not exist."""


class ModelNotFoundError(NotFoundError):
    """No model of that name is known."""


class VersionNotFoundError(NotFoundError):
    """The model is known, but not that version of it."""


class AlreadyExistsError(HlserveError):
    """Something of that name is there already."""


class InvalidRequestError(HlserveError, ValueError):
    """A request does not fit the protocol or the model."""


class UnsupportedError(HlserveError):
    """A call that this server, or this model, does not offer."""


class UnavailableError(HlserveError):
    """The request is right, but cannot be taken now; trying again later may succeed."""


class ModelNotReadyError(UnavailableError):
    """The model is known, but not ready: loading, unloading or failed."""


class QueueFullError(UnavailableError):
    """The model's queue holds as many rows as it may."""


class QueueTimeoutError(UnavailableError):
    """The request waited in the queue longer than the model's policy allows."""


class ShuttingDownError(UnavailableError):
    """The server drains and takes no new request."""


class DeadlineExceededError(HlserveError, TimeoutError):
    """The caller's deadline passed before the request ran; it never ran."""


class CancelledError(HlserveError):
    """The caller cancelled before the request ran; it never ran."""


class InferenceError(HlserveError):
    """ONNX Runtime failed while it ran a request."""


class ProviderError(HlserveError):
    """An execution provider that was asked for is not in this installation."""


class TrainingError(HlserveError):
    """Training cannot go on."""


class DivergenceError(TrainingError):
    """A loss, activation or gradient became NaN or infinite; the message names the layer."""


class CompressionError(HlserveError):
    """A compression step cannot be done."""


class UnsupportedModelError(CompressionError):
    """A graph holds something that the importer or a technique cannot take."""


class BoundNotMetError(CompressionError):
    """No candidate stayed inside the bound and was faster; the original is kept."""


class ServerError(HlserveError):
    """A server answered with an error status.

    Attributes:
        status: the gRPC status name, such as ``NOT_FOUND``.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
