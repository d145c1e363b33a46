"""What processes cost: CPU time and memory, as the kernel counts them."""

import os
from collections import defaultdict
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and all its threads so far, in steps of 10 ms; 0 once it is gone."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S if fields else 0.0


def resident_bytes(pid: int) -> int:
    """Return the memory that a process holds now; 0 once it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except OSError:
        return 0


def family(pid: int) -> dict[int, str]:
    """Return the names of a process and of all that it started, and they started, by process id."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children[int(fields[1])].append(int(entry.name))
    found, names = [pid], {}
    while found:
        each = found.pop()
        names[each] = _name(each)
        found += children[each]
    return names


def cpu_by_name(pids: dict[int, str]) -> dict[str, float]:
    """Return the CPU seconds so far of each name's processes."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for pid, name in pids.items():
        seconds[name] += cpu_s(pid)
    return dict(seconds)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "gone"


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; none once the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
