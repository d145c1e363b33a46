"""Where the processes of ``sluice up`` listen."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

from common.address import parse_address
from common.held_port import HeldPort


@dataclass(frozen=True, slots=True)
class LaunchAddresses:
    """Addresses, HOST:PORT, that were free a moment ago.

    Attributes:
        scheduler: The public API.
        admin: The admin API.
        scheduler_metrics: The scheduler's metrics.
        workers: Each worker's API.
        worker_metrics: Each worker's metrics.

    """

    scheduler: str
    admin: str
    scheduler_metrics: str
    workers: list[str]
    worker_metrics: list[str]

    @classmethod
    def choose(
        cls, scheduler: str, *, workers: int, first_worker_port: int, first_metrics_port: int, admin_port: int
    ) -> Self:
        """Number the ports from the first ones, and find free ones in the place of 0.

        Raises:
            BindError: An address is taken.
            ValueError: The scheduler's is no address.

        """
        parse_address(scheduler)
        worker_addresses = _numbered(first_worker_port, workers)
        own = [scheduler, *_numbered(admin_port, 1)]
        wanted = [*own, *worker_addresses, *_numbered(first_metrics_port, 1 + workers)]
        with ExitStack() as probes:
            found = [probes.enter_context(HeldPort(address)).address for address in wanted]
        scheduler, admin, *others = found
        return cls(scheduler, admin, others[workers], others[:workers], others[workers + 1 :])

    @property
    def reachable_scheduler(self) -> str:
        """The scheduler's address for clients on this machine."""
        host, port = parse_address(self.scheduler)
        return f"127.0.0.1:{port}" if host in ("0.0.0.0", "::") else self.scheduler


def _numbered(first_port: int, count: int) -> list[str]:
    return [f"127.0.0.1:{first_port and first_port + number}" for number in range(count)]
