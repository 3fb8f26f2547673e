"""TLS as asyncio takes it: one context for the socket, and new certificates at each handshake."""

from __future__ import annotations

import logging
import ssl

from hlserve.serving.tls import Certificates, TlsConfig

# What RFC 9113, section 9.2.2, leaves of TLS 1.2; TLS 1.3 has its own.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

_LOG = logging.getLogger(__name__)


def server_context(config: TlsConfig) -> ssl.SSLContext:
    """A context that follows the files.

    Raises:
        ConfigError: a file cannot be read, or the key is not the certificate's.
    """
    certificates = Certificates(config)
    front = _context(config)
    latest = front

    def renew(connection: ssl.SSLObject, _name: str | None, _front: ssl.SSLContext) -> None:
        """Called with every ClientHello, whether it names a server or not."""
        nonlocal latest
        if certificates.renew() is not None:
            try:
                latest = _context(config)
            except OSError as error:  # changed again meanwhile: seen at the next handshake
                _LOG.warning("the TLS files changed while they were read: %s", error)
        if latest is not front:
            connection.context = latest

    front.sni_callback = renew
    return front


def _context(config: TlsConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(config.certificate, config.key)
    if config.client_ca is not None:
        context.load_verify_locations(config.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
        # A resumed session would outlive the authority that it was checked by.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context
