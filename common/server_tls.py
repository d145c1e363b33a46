"""TLS from PEM files that may change while a server runs."""

from pathlib import Path

import grpc

from common.log import get_logger
from common.security_settings import ServerTlsSettings
from common.tls import CredentialsError, read_ca, read_pair

log = get_logger("tls")


def server_credentials(settings: ServerTlsSettings) -> grpc.ServerCredentials | None:
    """Return what a server listens with; None where there is no TLS. CredentialsError where a file will not do."""
    return _ServerCertificates(settings).credentials() if settings.certificate else None


class _ServerCertificates:
    """What a server shows to its clients: the files as they are, or as they were when they last made sense."""

    def __init__(self, settings: ServerTlsSettings) -> None:
        self._settings = settings
        self._files = [Path(name) for name in (settings.certificate, settings.key, settings.client_ca) if name]
        self._seen = self._stamps()
        self._initial = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials by which each new connection gets the certificate of its time."""
        return grpc.dynamic_ssl_server_credentials(
            self._initial,
            self._changed,  # type: ignore[arg-type]  # None is allowed: nothing has changed
            bool(self._settings.client_ca),
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the new configuration; None where it is the old one. gRPC asks on each handshake, on a thread."""
        stamps = self._stamps()
        if stamps == self._seen:
            return None
        self._seen = stamps
        try:
            configuration = self._read()
        except CredentialsError as error:  # one of the files may be new already, the other not yet
            log.warning("certificate is not reloaded", reason=str(error))
            return None
        log.info("certificate is reloaded", file=self._settings.certificate)
        return configuration

    def _read(self) -> grpc.ServerCertificateConfiguration:
        settings = self._settings
        chain, key = read_pair(settings.certificate, settings.key)
        roots = read_ca(settings.client_ca) if settings.client_ca else None
        return grpc.ssl_server_certificate_configuration([(key, chain)], roots)

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in self._files]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what tells a file from the one that was there before; None: there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
