"""How much one client may ask for, and all of them together: defaults that protect."""

from __future__ import annotations

from dataclasses import dataclass, fields

from hlserve.errors import ConfigError

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """Bounds that hold for every transport, unless a line says otherwise.

    Attributes:
        max_message_bytes: of one request, decompressed; larger ones are RESOURCE_EXHAUSTED. Its
            inputs in shared memory may hold as many again, and a stream reads no further ahead.
        max_tensor_elements: of one input, sent or made of a Predict's instances; more are
            INVALID_ARGUMENT. A tensor of BYTES costs memory by the element, and a byte on the wire
            can be one.
        max_concurrent_requests: taken at once; more are refused at once with UNAVAILABLE, which
            clients try again. Health calls are not counted, so that a busy server is not
            restarted for being busy.
        max_in_flight_bytes: of the requests taken at once; more are UNAVAILABLE too. Messages of
            streams and inputs in shared memory are not counted: each call's are bounded alone.
        max_connections: open at once; further ones are closed before a call is read.
        max_streams: calls at once on one connection; a client queues what is beyond.
        max_metadata_bytes: of a call's headers; more are RESOURCE_EXHAUSTED.
        max_connection_age_s: after which a client is told to connect anew, so that long-lived
            clients spread over processes and machines; 0: never.
    """

    max_message_bytes: int = 64 * _MIB
    max_tensor_elements: int = 64 * _MIB
    max_concurrent_requests: int = 4096
    max_in_flight_bytes: int = 1024 * _MIB
    max_connections: int = 10_000
    max_streams: int = 1024
    max_metadata_bytes: int = 16 * 1024
    max_connection_age_s: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), int(field.name != "max_connection_age_s")
            if value < least:
                name = field.name.replace("_", " ")
                raise ConfigError(f"{name} is {value}, expected at least {least}")
        if self.max_message_bytes >= 2**31:
            raise ConfigError(
                f"max message bytes is {self.max_message_bytes}, expected less than 2 GiB: a "
                "protobuf message cannot be larger"
            )
