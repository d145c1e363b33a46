"""A worker whose engine starts processes of each kind, one after the other, and never becomes ready.

It prints the id of each, or ends as told by the name of a moment.
"""

import asyncio
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NoReturn
from unittest import mock

from sluice.worker.v1 import worker_pb2
from worker import app
from worker.config import WorkerSettings
from worker.engine import EngineStartError
from worker.simulated_engine import SimulatedEngine, options_from

MOMENTS = ["nothing", "executed", "forked", "in a session", "orphaned"]
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
ORPHAN = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], stdout=2).pid)"


class LoadingEngine(SimulatedEngine):
    """Blocks the event loop once it has started as much as the moment says."""

    def start(self, *, on_load: Callable[[worker_pb2.Load], None], on_death: Callable[[str], None]) -> NoReturn:
        moment, ending = sys.argv[1:3]
        starts = [lambda: os.getpid(), executed, forked, in_a_session, orphaned]
        for start in starts[: MOMENTS.index(moment) + 1]:
            print(start(), flush=True)
        print("loading", flush=True)
        if ending == "fails":
            raise EngineStartError("it was told to")
        while True:
            time.sleep(600)


def executed() -> int:
    return subprocess.Popen(SLEEP).pid


def forked() -> int:
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=[600])
    child.start()
    assert child.pid
    return child.pid


def in_a_session() -> int:
    return subprocess.Popen(SLEEP, start_new_session=True).pid


def orphaned() -> int:
    return int(subprocess.run([sys.executable, "-c", ORPHAN, *SLEEP], check=True, stdout=subprocess.PIPE).stdout)


if __name__ == "__main__":
    address = f"127.0.0.1:{sys.argv[3]}"
    given = WorkerSettings.model_validate({"engine": "simulated", "listen": address, "metrics_listen": ""})
    with mock.patch.object(app, "make_engine", return_value=LoadingEngine(options_from(given))):
        try:
            sys.exit(asyncio.run(app.run(given)))
        except EngineStartError as error:
            sys.exit(str(error))
