"""The settings of TLS and of tokens."""

import re
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from common.settings import SettingsSection
from common.tls import ClientTls

_DIGEST = re.compile(r"[0-9a-f]{64}")


class ServerTlsSettings(SettingsSection):
    """Encryption of the API. The files are read again when they change; connections that are open stay."""

    certificate: str = Field("", description="PEM file with the certificate and its chain; empty: no TLS.")
    key: str = Field("", description="PEM file with the certificate's private key.")
    client_ca: str = Field(
        "", description="PEM file with the CAs of which every client must have a certificate; empty: it needs none."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key must be set together")
        if self.client_ca and not self.certificate:
            raise ValueError("client_ca must be set beside certificate and key")
        return self


class WorkerTlsSettings(SettingsSection):
    """Encryption of what the scheduler asks of workers. The files are read for each new connection."""

    ca: str = Field("", description="PEM file with the CAs that a worker's certificate must be of; empty: no TLS.")
    certificate: str = Field("", description="PEM file with the scheduler's certificate and its chain.")
    key: str = Field("", description="PEM file with that certificate's private key.")

    def client(self) -> ClientTls:
        """Return how to connect."""
        return ClientTls(self.ca, self.certificate, self.key)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.certificate) != bool(self.key) or (self.certificate and not self.ca):
            raise ValueError("certificate and key must be set together, and beside ca")
        return self


def _checked(value: object) -> str:
    """Check a digest without ever quoting it: it may be the token itself, by mistake."""
    if not isinstance(value, str) or not _DIGEST.fullmatch(value.lower()):
        raise PydanticCustomError("secret", "should be a token's SHA-256, 64 hex digits, as sluice token prints it")
    return value.lower()


TokenDigest = Annotated[str, BeforeValidator(_checked)]
"""The type of a setting that holds a token's digest."""
