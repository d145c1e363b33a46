"""The circuit breaker of a worker's address: how soon it is tried again after a fault, and with how much."""

from enum import IntEnum

LEAST_DELAY_S = 0.5
MOST_DELAY_S = 30.0


class WorkerFault(Exception):
    """A worker that had joined failed: its engine died, its session was lost, or it hangs; the message says which."""


class CircuitState(IntEnum):
    """What the worker gets; the values are those of the metric."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Circuit:
    """Opened by the worker's faults alone; not by what it refuses, by how requests end, or by a drain.

    Attributes:
        state: Closed: it gets what it can run. Open: it failed, and has not joined again. Half-open: it has, and gets
            one request at a time until it has proved itself.

    """

    def __init__(self) -> None:
        """Begin closed."""
        self.state = CircuitState.CLOSED
        self._delay_s = 0.0

    def open(self) -> float:
        """Take note of a fault; return the seconds before the next attempt, twice those of the last one."""
        self.state = CircuitState.OPEN
        self._delay_s = min(max(LEAST_DELAY_S, 2 * self._delay_s), MOST_DELAY_S)
        return self._delay_s

    def rejoin(self) -> None:
        """The worker has joined."""
        if self.state is CircuitState.OPEN:
            self.state = CircuitState.HALF_OPEN

    def close(self) -> None:
        """The worker has proved itself. It takes a whole answer until its next fault counts as the first."""
        self.state = CircuitState.CLOSED

    def forget(self) -> None:
        """A request came to its own end there."""
        self.close()
        self._delay_s = 0.0

    @property
    def has_past(self) -> bool:
        """Whether it has failed since a request there came to its own end."""
        return self._delay_s > 0


Circuits = dict[str, Circuit]
"""By address, HOST:PORT; of all addresses where a worker may be."""
