"""What the addresses of workers stand for by now: a DNS name may have several, and others later."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable

import structlog

from common.address import parse_address

RESOLVE_S = 3.0

log = structlog.get_logger("scheduler")


class WorkerName:
    """One address as it was given, HOST:PORT, and those that it stands for.

    Attributes:
        host: Its host, which a worker's certificate has to name.
        addresses: IP:PORT; none until the name has been resolved. What could not be resolved again stays as it was.

    """

    def __init__(self, given: str) -> None:
        self.host, self._port = parse_address(given)
        self.addresses: list[str] = [given] if _is_ip(self.host) else []
        self._resolves = True

    async def follow(self, on_change: Callable[[], None]) -> None:
        """Resolve the name again and again, and tell when it has; until cancelled. An IP address stands for itself."""
        while not _is_ip(self.host):
            await self._resolve()
            on_change()
            await asyncio.sleep(RESOLVE_S)

    async def _resolve(self) -> None:
        try:
            self.addresses = await look_up(self.host, self._port)
            self._resolves = True
        except (OSError, UnicodeError) as error:
            if self._resolves:
                log.warning("worker's name is not resolved", name=self.host, reason=str(error))
            self._resolves = False


async def look_up(host: str, port: int) -> list[str]:
    """Return a host's addresses, IP:PORT: those of IPv4, or where there are none those of IPv6.

    Whoever has both would else be taken for two workers. OSError or UnicodeError where the name has no address.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    ipv4, ipv6 = ([each[4][0] for each in found if each[0] == family] for family in (socket.AF_INET, socket.AF_INET6))
    return [f"{ip}:{port}" for ip in ipv4] or [f"[{ip}]:{port}" for ip in ipv6]


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
