"""A tenant that floods the service for a while."""

from dataclasses import dataclass, field

from scheduler.simulation.trace import Arrival
from scheduler.simulation.workload import Mix

FLOODER = "flooder"
EXTRA_RATE = 0.6
FROM_SHARE, UNTIL_SHARE = 1 / 3, 2 / 3


@dataclass(frozen=True)
class Flood:
    """The bursty mix; in the middle third of the time a thirteenth tenant asks for 0.6 times as much as all others."""

    calm: Mix = field(default_factory=lambda: Mix(bursty=True))

    def arrivals(self, rate: float, duration_s: float, seed: int) -> list[Arrival]:
        """See Workload.arrivals. ``rate``: of all tenants but the flooder."""
        extra = self.calm.arrivals(EXTRA_RATE * rate, duration_s, ~seed)
        flood = (each._replace(tenant=FLOODER) for each in extra if lasts(each, duration_s))
        calm = self.calm.arrivals(rate, duration_s, seed)
        return sorted([*calm, *flood], key=lambda arrival: arrival.arrival_s)

    def backlog(self, seed: int) -> list[Arrival]:
        """See Workload.backlog."""
        return self.calm.backlog(seed)


def lasts(arrival: Arrival, duration_s: float) -> bool:
    """Whether the flood of a run of that length lasts when the request arrives."""
    return FROM_SHARE * duration_s <= arrival.arrival_s < UNTIL_SHARE * duration_s
