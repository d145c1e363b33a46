"""What the engine started, if this process is killed: ended, or it would keep the GPU's memory for nobody."""

import subprocess
from collections.abc import Iterable


class Guardian:
    """A shell that waits for this process's end, however it comes, and then kills some others.

    It notices by a pipe that only this process holds open. What those processes started ends with them.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        command = f"read _; kill -KILL {' '.join(map(str, pids))}"
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """Kill nobody: this process ends them itself."""
        self._shell.kill()
        self._shell.communicate()
