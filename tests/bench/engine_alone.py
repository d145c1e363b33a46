"""The simulated engine without worker and scheduler, as a caller: what the engine itself takes."""

import asyncio
from itertools import count
from typing import Self

from sluice.v1 import generation_pb2
from sluice.worker.v1 import worker_pb2
from tests.bench.load import SAMPLING, Heard
from worker.config import WorkerSettings
from worker.engine import Emit
from worker.simulated_engine import SimulatedEngine, options_from


class EngineAlone:
    """Hears of every token."""

    def __init__(self, worker_options: list[str]) -> None:
        settings = WorkerSettings.load(worker_options, prog="engine")
        self._engine = SimulatedEngine(options_from(settings))
        self._numbers = count()

    async def __aenter__(self) -> Self:
        await self._engine.start(on_load=lambda load: None, on_death=lambda reason: None)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._engine.close()

    async def answer(self, prompt: list[int], tokens: int, heard: Heard) -> int:
        """See Caller."""
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def emit(output: worker_pb2.Output) -> None:
            heard(len(output.token_ids))
            if output.finish_reason:
                ended.set_result(tokens)

        self.submit(prompt, tokens, emit)
        return await ended

    def submit(self, prompt: list[int], tokens: int, emit: Emit) -> None:
        """Let the engine begin."""
        sampling = generation_pb2.SamplingParams(**SAMPLING, max_tokens=tokens)
        submit = worker_pb2.Submit(
            request_id=f"alone-{next(self._numbers)}", prompt_token_ids=prompt, sampling=sampling
        )
        self._engine.submit(submit, emit)


class SilentEngine(EngineAlone):
    """Hears of the end alone, so that the process's CPU time is the engine's."""

    async def answer(self, prompt: list[int], tokens: int, heard: Heard) -> int:
        """See Caller."""
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def emit(output: worker_pb2.Output) -> None:
            if output.finish_reason:
                ended.set_result(tokens)

        self.submit(prompt, tokens, emit)
        return await ended
