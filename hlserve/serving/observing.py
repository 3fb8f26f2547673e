"""What an operator may see of the server: metrics, traces and logs, and how each is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hlserve.errors import ConfigError

LogFormat = Literal["plain", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
TraceExporter = Literal["console", "otlp"]


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """Metrics for Prometheus.

    Attributes:
        host: address to bind; empty: the server's own, or this machine's alone where it has none.
        port: 0 = a free one; None: histograms are recorded, and somebody else serves them.
    """

    host: str = ""
    port: int | None = 8002

    def __post_init__(self) -> None:
        if self.port is not None and not 0 <= self.port <= 65535:
            raise ConfigError(f"metrics port is {self.port}, expected 0 to 65535")

    def address(self, server_host: str) -> str:
        """What to bind beside a server at ``server_host``; never empty: every interface."""
        return self.host or server_host or "127.0.0.1"


@dataclass(frozen=True, slots=True)
class TracingConfig:
    """Traces for OpenTelemetry.

    Attributes:
        exporter: ``console`` writes a JSON object a span to stdout, ``otlp`` sends to a collector.
        endpoint: the collector; None: as the OTEL_EXPORTER_OTLP_* variables say.
        rate: share of the calls that are traced where the caller has not decided, 0 to 1.
    """

    exporter: TraceExporter = "otlp"
    endpoint: str | None = None
    rate: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ConfigError(f"trace rate is {self.rate:g}, expected 0 to 1")
        if self.endpoint is not None and self.exporter != "otlp":
            raise ConfigError(
                f"a trace endpoint ({self.endpoint}) was given for the {self.exporter} exporter, "
                "expected otlp"
            )


@dataclass(frozen=True, slots=True)
class LogConfig:
    """The log, which goes to stderr.

    Attributes:
        level: the lowest that is written.
        format: ``plain``, a line a message for people; ``json``, an object a line.
        access: whether every call gets a line.
    """

    level: LogLevel = "info"
    format: LogFormat = "plain"
    access: bool = False
