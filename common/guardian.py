"""What a process starts, and what that starts: ended with it, however it ends, or it would keep its memory for nobody.

This file is also the program of the guardian process; it uses the standard library alone, so as to start at once.
"""

import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_VARIABLE = "SLUICE_GUARDIAN_"
_POLL_S = 0.01
_END_S = 10.0
# It ends by itself with the last of its users, and has shared memory to give back before that.
_ENDS_BY_ITSELF = b"multiprocessing.resource_tracker"


class Guardian:
    """A process that waits for this one's end and then kills all that came of it; a context manager.

    It knows them by two marks, since parents are forgotten when they die: a variable in the environment of what was
    executed, and a pipe that what was forked holds open. Leaving the context ends them, too.
    """

    def __enter__(self) -> Self:
        self._mark = f"{_VARIABLE}{uuid.uuid4().hex}"
        os.environ[self._mark] = "1"
        self._pipe = os.pipe()
        inode = os.fstat(self._pipe[0]).st_ino
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid()), self._mark, str(inode)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end_all()
        del os.environ[self._mark]
        self._process.kill()
        self._process.wait()
        for end in self._pipe:
            os.close(end)

    def end_all(self) -> None:
        """Kill all that this process has started since the guardian came, and what came of that."""
        spared = {os.getpid(), self._process.pid}
        _end_all(self._mark.encode(), os.fstat(self._pipe[0]).st_ino, spared)


def _end_all(mark: bytes, inode: int, spared: set[int]) -> None:
    """Kill until nobody is left: a process may fork while others are looked at."""
    give_up_s = time.monotonic() + _END_S
    while time.monotonic() < give_up_s and (found := list(_marked(mark, inode, spared))):
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)


def _marked(mark: bytes, inode: int, spared: set[int]) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # another user's, or it has ended meanwhile
            if int(folder.name) not in spared and (_is_executed(folder, mark) or _is_forked(folder, inode)):
                yield int(folder.name)


def _is_executed(folder: Path, mark: bytes) -> bool:
    is_marked = mark in (folder / "environ").read_bytes()
    return is_marked and _ENDS_BY_ITSELF not in (folder / "cmdline").read_bytes()


def _is_forked(folder: Path, inode: int) -> bool:
    return any(os.readlink(each) == f"pipe:[{inode}]" for each in (folder / "fd").iterdir())


def _guard(parent: int, mark: str, inode: int) -> None:
    """Wait for the parent's end, then end what it leaves."""
    try:
        ends = os.pidfd_open(parent)
    except ProcessLookupError:
        pass
    else:
        # Asked after it was opened: until then the id may have become another's.
        if os.getppid() == parent:
            select.select([ends], [], [])
    _end_all(mark.encode(), inode, {os.getpid()})


if __name__ == "__main__":
    _guard(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
