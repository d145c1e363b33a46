"""A worker on the simulated engine whose engine dies when the process gets SIGUSR1."""

import asyncio
import signal
import sys
from unittest import mock

from common import log
from worker import app
from worker.config import WorkerSettings
from worker.engine import Engine
from worker.simulated_engine import SimulatedEngine, options_from


def make_engine(settings: WorkerSettings) -> Engine:
    engine = SimulatedEngine(options_from(settings))
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, engine.die, "it was told to")
    return engine


if __name__ == "__main__":
    worker_settings = WorkerSettings.load(prog="mortal-worker")
    log.configure(worker_settings.log)
    with mock.patch.object(app, "make_engine", make_engine):
        sys.exit(asyncio.run(app.run(worker_settings)))
