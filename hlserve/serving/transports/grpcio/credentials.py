"""Certificates as grpcio takes them: asked for at every handshake, so that new ones are used."""

from __future__ import annotations

import grpc

from hlserve.serving.tls import Certificates, KeyPair, TlsConfig


def server_credentials(config: TlsConfig) -> grpc.ServerCredentials:
    """Credentials that follow the files.

    Raises:
        ConfigError: a file cannot be read, or the key is not the certificate's.
    """
    certificates = Certificates(config)

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        pair = certificates.renew()
        return None if pair is None else _configuration(pair)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(certificates.pair),
        renewed,  # type: ignore[arg-type] # None means no change, the stubs do not say it
        require_client_authentication=config.client_ca is not None,
    )


def _configuration(pair: KeyPair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(pair.key, pair.certificate)], root_certificates=pair.client_ca
    )
