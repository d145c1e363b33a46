"""The workloads by name."""

from pathlib import Path

from scheduler.simulation.flood import Flood
from scheduler.simulation.workload import Mix, Trace, Workload


def open_workload(name: str) -> Workload:
    """Return the workload of that name (bursty, poisson, flood), or else that of the trace file of that name."""
    match name:
        case "bursty" | "poisson":
            return Mix(bursty=name == "bursty")
        case "flood":
            return Flood()
        case _:
            return Trace(Path(name))
