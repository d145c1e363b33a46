"""Certificates for tests: an authority that signs what it is asked for, and the files it leaves."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates; ``ca`` is the file that those need who trust it."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._name = _subject(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.ca = folder / f"{name}.pem"
        built = _builder(self._name, self._name, self._key).add_extension(x509.BasicConstraints(True, None), True)
        self._write(self.ca, built.sign(self._key, hashes.SHA256()))

    def issue(self, name: str, *, valid_for: timedelta = HOUR, into: Issued | None = None) -> Issued:
        """Sign a certificate for loopback with this common name and SAN; of negative validity, one that has expired.

        ``into`` names the files to be replaced; by default they are called like the certificate.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName(name), x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        built = _builder(_subject(name), self._name, key, valid_for).add_extension(
            x509.SubjectAlternativeName(names), False
        )
        issued = into or Issued(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _replace(issued.key, private)
        self._write(issued.certificate, built.sign(self._key, hashes.SHA256()))
        return issued

    def _write(self, path: Path, certificate: x509.Certificate) -> None:
        _replace(path, certificate.public_bytes(Encoding.PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, valid_for: timedelta = HOUR
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 2 * HOUR)
        .not_valid_after(now + valid_for)
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _replace(path: Path, data: bytes) -> None:
    """Put a file in the place of another at once, as whoever renews certificates should."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(data)
    fresh.rename(path)
