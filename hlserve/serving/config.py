"""How the server and each model are served: typed, checked, defaults in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hlserve.errors import ConfigError
from hlserve.repository import MODEL_FILE
from hlserve.serving.batching_config import BatchingConfig as BatchingConfig
from hlserve.serving.limits import LimitsConfig
from hlserve.serving.observing import LogConfig, MetricsConfig, TracingConfig
from hlserve.serving.tls import TlsConfig

ControlMode = Literal["none", "explicit", "poll"]
CONTROL_MODES: tuple[ControlMode, ...] = ("none", "explicit", "poll")

Wire = Literal["grpcio", "http2"]
Transport = Literal["auto", "grpcio", "http2"]

_MAX_THREADS = 1024


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """Which models are loaded, and who says so.

    Attributes:
        mode: ``none``: everything at the start and nothing after; ``explicit``: what the calls
            RepositoryModelLoad and Unload say; ``poll``: what lies in the repository, looked at
            again and again.
        load_models: what ``explicit`` loads at the start; ``*`` alone: everything.
        poll_interval_s: how long ``poll`` waits between two looks.
    """

    mode: ControlMode = "none"
    load_models: tuple[str, ...] = ()
    poll_interval_s: float = 15.0

    def __post_init__(self) -> None:
        if self.mode not in CONTROL_MODES:
            raise ConfigError(f"model control is {self.mode!r}, expected one of {CONTROL_MODES}")
        if self.load_models and self.mode != "explicit":
            raise ConfigError(
                f"load-model names {self.load_models[0]!r}, and model control is {self.mode!r}: "
                "models are named with --model-control explicit only"
            )
        if not self.poll_interval_s > 0:
            raise ConfigError(f"poll interval is {self.poll_interval_s} s, expected above 0")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Everything that ``hlserve serve`` can be told.

    Attributes:
        host: TCP address; empty: a Unix socket only.
        api_key_file: who may call what; None: everyone may call everything.
        unix_socket: a path to listen on as well.
        processes: that serve one port together.
        metrics: None: no metrics, and histograms are not recorded.
        tracing: None: no traces.
        log: which calls are logged; ``logs.configure`` applies the rest of it to the process.
        transport: what speaks HTTP/2: our own, or grpcio.
    """

    models: Path
    host: str = "127.0.0.1"
    port: int = 8001
    batching: BatchingConfig = field(default_factory=BatchingConfig)
    provider: str = "cpu"
    intra_op_threads: int = 1
    threads: int = 0  # of all runs of all models together; 0: one a core
    drain_timeout_s: float = 30.0
    shared_memory: bool = False  # clients may name regions of /dev/shm to read and write
    control: ControlConfig = field(default_factory=ControlConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    tls: TlsConfig | None = None
    api_key_file: Path | None = None
    unix_socket: Path | None = None
    processes: int = 1
    metrics: MetricsConfig | None = None
    tracing: TracingConfig | None = None
    log: LogConfig = field(default_factory=LogConfig)
    transport: Transport = "auto"

    def __post_init__(self) -> None:
        _check_listening(self)
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}, expected 0 to 65535")
        if self.drain_timeout_s < 0:
            raise ConfigError(f"drain timeout is {self.drain_timeout_s} s, expected 0 or more")
        check_threads(self.intra_op_threads)
        if not 0 <= self.threads <= _MAX_THREADS:
            raise ConfigError(f"threads is {self.threads}, expected 0 (a thread a core) or more")

    @property
    def wire(self) -> Wire:
        """The transport that serves; ``auto`` is the one that has been proven the longest."""
        return "grpcio" if self.transport == "auto" else self.transport


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """Where a model runs.

    Attributes:
        name: of ``hlserve.serving.providers``.
        device: the GPU's number; None: the provider's default.
        options: the execution provider's own, by its names.
    """

    name: str = "cpu"
    device: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeclaredTensor:
    """What a configuration says of an input or output; the graph says the rest.

    Attributes:
        name: the tensor's name.
        datatype: the protocol's name; None: not stated.
        dims: -1 = any; without the batch axis where max_batch_size is stated; None: not stated.
        label_file: in the model's folder, one label a line; None: it has none.
    """

    name: str
    datatype: str | None = None
    dims: tuple[int, ...] | None = None
    label_file: str | None = None


@dataclass(frozen=True, slots=True)
class WarmUpInput:
    """One tensor of a warm-up; ``fill`` is ``file`` where ``file`` names its raw bytes."""

    datatype: str
    dims: tuple[int, ...]
    fill: Literal["zeros", "random", "file"]
    file: str = ""


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Runs that a version makes before it takes requests.

    Attributes:
        name: how messages name it.
        rows: put before every input's dims; 0: nothing is.
        inputs: by name.
        count: how often it runs.
    """

    name: str
    rows: int
    inputs: Mapping[str, WarmUpInput]
    count: int = 1


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """How one model is served: the server's defaults, changed by its own configuration.

    Attributes:
        batching: how its requests are joined.
        intra_op_threads: threads of one run; 0 = a thread a core.
        instances: how many runs may go on at once (Triton's instance_group.count).
        max_request_rows: the most rows one request may bring, where max_batch_size says so; then
            declared dims have no batch axis. None: no bound.
        latest_versions: how many of the newest versions to serve; None: all.
        specific_versions: serve exactly these; empty: ``latest_versions`` decides.
        model_file: in each version's folder.
        provider: where it runs.
        spins: whether idle intra-op threads spin: a core each, for some microseconds less.
        inputs: those declared; all of the graph's, or none.
        outputs: those declared are those answered; none: all of the graph's.
        warm_ups: runs before it takes requests; none: with made-up rows.
        histograms: whether its statistics record how the times spread.
    """

    batching: BatchingConfig
    intra_op_threads: int
    instances: int = 1
    max_request_rows: int | None = None
    latest_versions: int | None = 1
    specific_versions: tuple[int, ...] = ()
    model_file: str = MODEL_FILE
    provider: ProviderConfig = field(default_factory=ProviderConfig)
    spins: bool = False
    inputs: tuple[DeclaredTensor, ...] = ()
    outputs: tuple[DeclaredTensor, ...] = ()
    warm_ups: tuple[WarmUp, ...] = ()
    histograms: bool = True

    def choose_versions(self, versions: list[int]) -> list[int]:
        """Which of the versions on disk (ascending) are served.

        Raises:
            ConfigError: a version asked for by number is not there.
        """
        if not self.specific_versions:
            return versions if self.latest_versions is None else versions[-self.latest_versions :]
        missing = sorted(set(self.specific_versions) - set(versions))
        if missing:
            raise ConfigError(f"version_policy asks for version {missing[0]}, found {versions}")
        return sorted(set(self.specific_versions))


def _check_listening(config: ServerConfig) -> None:
    if not config.host and config.unix_socket is None:
        raise ConfigError("neither a host nor a Unix socket is given, expected one to listen on")
    if config.processes < 1:
        raise ConfigError(f"processes is {config.processes}, expected at least 1")
    if config.processes > 1 and config.unix_socket is not None:
        raise ConfigError("several processes cannot share a Unix socket, expected TCP only")


def check_threads(threads: int) -> None:
    """Raises ConfigError where a number of intra-op threads is out of bounds."""
    if not 0 <= threads <= _MAX_THREADS:
        raise ConfigError(f"intra-op threads is {threads}, expected 0 (a thread a core) or more")
