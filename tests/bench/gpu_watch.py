"""How busy a GPU is and how much of its memory is taken, as nvidia-smi tells it."""

import math
import shutil
import subprocess
import threading
from types import TracebackType
from typing import Self

EVERY_MS = 200


def total_memory_bytes() -> float:
    """Return the memory of the first GPU; not a number where there is none."""
    if not shutil.which("nvidia-smi"):
        return math.nan
    command = ["nvidia-smi", "--id=0", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) * 2**20


class GpuWatch:
    """Watches the first GPU while entered.

    Attributes:
        utilization: Shares of time in which something ran, 0 to 1, one for each look.
        used_bytes: Memory taken, likewise.

    """

    def __init__(self) -> None:
        self.utilization: list[float] = []
        self.used_bytes: list[float] = []

    @property
    def mean_utilization(self) -> float:
        """The mean; not a number where there is no GPU."""
        return sum(self.utilization) / len(self.utilization) if self.utilization else math.nan

    @property
    def most_used_bytes(self) -> float:
        """The most memory that was taken; not a number where there is no GPU."""
        return max(self.used_bytes, default=math.nan)

    def __enter__(self) -> Self:
        self._process: subprocess.Popen[str] | None = None
        if shutil.which("nvidia-smi"):
            query = ["--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
            command = ["nvidia-smi", "--id=0", *query, f"--loop-ms={EVERY_MS}"]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            self._reader = threading.Thread(target=self._read, args=(self._process,))
            self._reader.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait()
            self._reader.join()

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout
        for line in process.stdout:
            busy, _, used = line.partition(",")
            self.utilization.append(float(busy) / 100)
            self.used_bytes.append(float(used) * 2**20)
