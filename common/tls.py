"""TLS from PEM files, on the side of whoever connects; and what both sides need to read such files."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from common.address import is_loopback


class CredentialsError(Exception):
    """A file with certificates, a key or a token will not do; the message names it and the reason, not its content."""


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How a client connects; the files are read for each channel that is opened.

    Attributes:
        ca: PEM file with the CAs that the server's certificate must be of; empty: no TLS.
        certificate: PEM file with the client's own certificate and its chain; empty: it shows none.
        key: PEM file with that certificate's private key.

    """

    ca: str = ""
    certificate: str = ""
    key: str = ""

    def channel(self, address: str, options: Sequence[tuple[str, Any]] = ()) -> grpc.aio.Channel:
        """Open a channel to ``HOST:PORT``, which keeps its certificates also when it connects again.

        Raises:
            CredentialsError: A file will not do, or one is missing.

        """
        if bool(self.certificate) != bool(self.key) or (self.certificate and not self.ca):
            raise CredentialsError("a certificate and its key go together, and with the server's CA")
        options = [*options, *_direct(address)]
        if not self.ca:
            return grpc.aio.insecure_channel(address, options=options)
        chain, key = read_pair(self.certificate, self.key) if self.certificate else (None, None)
        credentials = grpc.ssl_channel_credentials(read_ca(self.ca), key, chain)
        return grpc.aio.secure_channel(address, credentials, options=options)


def _direct(address: str) -> list[tuple[str, int]]:
    """Options that keep an address of this machine from a proxy, for which it would be another machine's."""
    try:
        return [("grpc.enable_http_proxy", 0)] if is_loopback(address) else []
    except ValueError:  # a name that gRPC itself reads, dns:///host for instance
        return []


def read_pair(certificate: str, key: str) -> tuple[bytes, bytes]:
    """Read a certificate chain and its key, and check that they belong together."""
    chain, private = read_credentials(certificate), read_credentials(key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise CredentialsError(f"{certificate} and {key} are not a certificate and its key: {_why(error)}") from None
    return chain, private


def read_ca(path: str) -> bytes:
    """Read a file of CA certificates; CredentialsError where it holds none."""
    roots = read_credentials(path)
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError as error:
        raise CredentialsError(f"{path} holds no certificates: {_why(error)}") from None
    return roots


def read_credentials(path: str) -> bytes:
    """Read a file; CredentialsError where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CredentialsError(f"cannot read {path}: {error.strerror}") from None


def _no_password() -> str:
    raise ValueError("the key must not be encrypted")


def _why(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)
