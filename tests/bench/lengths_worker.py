"""A worker on vLLM whose answers have the length that the request's seed says, whatever the scheduler was told.

A trace knows how long each answer is; a scheduler must not. So the seed carries the length past it.
"""

import asyncio
import os
import sys
from unittest import mock

from common import log
from sluice.worker.v1 import worker_pb2
from worker import app
from worker.config import WorkerSettings
from worker.engine import Emit, Engine
from worker.vllm_engine import VllmEngine


class LengthsEngine(VllmEngine):
    """Ends each answer after as many tokens as its seed says."""

    def submit(self, request: worker_pb2.Submit, emit: Emit) -> None:
        """See Engine.submit."""
        told = worker_pb2.Submit()
        told.CopyFrom(request)
        told.sampling.max_tokens = min(request.sampling.max_tokens, request.sampling.seed)
        told.sampling.ClearField("seed")
        super().submit(told, emit)


def make_engine(settings: WorkerSettings) -> Engine:
    return LengthsEngine(settings)


if __name__ == "__main__":
    worker_settings = WorkerSettings.load(prog="lengths-worker")
    log.configure(worker_settings.log)
    os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")
    with mock.patch.object(app, "make_engine", make_engine):
        sys.exit(asyncio.run(app.run(worker_settings)))
