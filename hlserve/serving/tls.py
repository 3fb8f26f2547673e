"""TLS: a certificate, its key and the authority of clients, read again when the files change."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

from hlserve.errors import ConfigError
from hlserve.serving.file_stamps import FileStamp, file_stamp

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """The files, all PEM.

    Attributes:
        certificate: the server's, with the chain below it.
        key: its private key, not encrypted.
        client_ca: clients must show a certificate of this authority; None: they need none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class KeyPair:
    """What the files held when they were last right."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None


class Certificates:
    """The pair in use; a wrong new one is logged once and the old one stays.

    Args:
        config: the files.

    Raises:
        ConfigError: a file cannot be read, is no PEM, or the key is not the certificate's.
    """

    def __init__(self, config: TlsConfig) -> None:
        self._config = config
        self._stamp = self._stat()
        self._pair = _read(config)

    @property
    def pair(self) -> KeyPair:
        """What connections are made with."""
        return self._pair

    def renew(self) -> KeyPair | None:
        """The new pair where the files changed and are right; else None. Cheap, never raises."""
        stamp = self._stat()
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        try:
            pair = _read(self._config)
        except ConfigError as error:
            _LOG.error("the TLS files changed and are wrong, the old ones stay in use: %s", error)
            return None
        if pair == self._pair:
            return None
        self._pair = pair
        _LOG.info("the TLS files changed: new connections use %s", self._config.certificate)
        return pair

    def _stat(self) -> tuple[FileStamp | None, ...]:
        config = self._config
        paths = (config.certificate, config.key, config.client_ca)
        return tuple(None if path is None else file_stamp(path) for path in paths)


def _read(config: TlsConfig) -> KeyPair:
    """The files' contents, checked as a pair."""
    pair = KeyPair(
        _content(config.certificate, "TLS certificate"),
        _content(config.key, "TLS key"),
        None if config.client_ca is None else _content(config.client_ca, "TLS client authority"),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A password of nothing, so that an encrypted key is an error and not a question.
        context.load_cert_chain(config.certificate, config.key, password=lambda: "")
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        raise ConfigError(
            f"TLS certificate {config.certificate} and key {config.key} are no pair: {reason}; "
            "expected PEM files that belong together, the key without a password"
        ) from error
    if pair.client_ca is not None:
        _check_authority(config, pair.client_ca)
    return pair


def _check_authority(config: TlsConfig, content: bytes) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cadata=content.decode("ascii"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"TLS client authority {config.client_ca} holds no PEM certificate"
        ) from error


def _content(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {error.strerror}") from error
