"""What a caller shows to say who it is: a bearer token, of which only a digest is kept, or a client certificate."""

import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, Final

from common.tls import CredentialsError, read_credentials

AUTHORIZATION_KEY: Final = "authorization"
_TOKEN_BYTES = 32
_TOKEN = re.compile(r"[!-~]{16,256}")


def make_token() -> str:
    """Make a token that nobody can guess."""
    return f"sluice_{secrets.token_urlsafe(_TOKEN_BYTES)}"


def digest_of(token: str) -> str:
    """Return what is kept of a token. Tokens are random, so that a plain SHA-256 cannot be searched."""
    return sha256(token.encode()).hexdigest()


def read_token(path: str) -> str:
    """Read a token from a file; CredentialsError where there is none."""
    token = read_credentials(path).decode(errors="replace").strip()
    if not _TOKEN.fullmatch(token):
        raise CredentialsError(f"{path} does not hold a token: one word of 16 to 256 characters")
    return token


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata that shows a token; none for an empty one."""
    return ((AUTHORIZATION_KEY, f"Bearer {token}"),) if token else ()


def shown_digest(metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
    """Return the digest of the token that a call shows; None where it shows none, "" where it is none of ours."""
    values = [value for key, value in metadata or () if key == AUTHORIZATION_KEY]
    if not values:
        return None
    scheme, _, token = str(values[0]).partition(" ")
    return digest_of(token.strip()) if scheme.lower() == "bearer" and len(values) == 1 else ""


def same(digest: str, other: str) -> bool:
    """Compare two digests in a time that does not tell where they differ."""
    return hmac.compare_digest(digest, other)


def certificate_names(context: Any) -> frozenset[str]:
    """Return the names in the client's certificate that TLS has verified: common name, DNS names, URIs and the like."""
    shown: Mapping[str, Iterable[bytes]] = context.auth_context()
    keys = ("x509_common_name", "x509_subject_alternative_name")
    return frozenset(name.decode(errors="replace") for key in keys for name in shown.get(key, ()))
