"""An engine answers in every way once before anybody waits for it."""

import asyncio

from sluice.v1 import generation_pb2
from sluice.worker.v1 import worker_pb2
from worker.engine import Emit
from worker.warm_up import SEVERAL, WAYS_TO_SAMPLE, warm_up


class SlowEngine:
    """Notes what is submitted; answers, or refuses, when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[worker_pb2.Submit, Emit]] = []
        self.together: list[int] = []

    def submit(self, request: worker_pb2.Submit, emit: Emit) -> None:
        self.waiting.append((request, emit))

    async def answer_all(self) -> None:
        await asyncio.sleep(0)
        waiting, self.waiting = self.waiting, []
        self.together.append(len(waiting))
        for request, emit in waiting:
            if request.sampling.HasField("structured_output"):
                failure = worker_pb2.Failure(reason=worker_pb2.FAILURE_REASON_INVALID, message="no grammars here")
                emit(worker_pb2.Output(request_id=request.request_id, failure=failure))
            else:
                emit(worker_pb2.Output(request_id=request.request_id, token_ids=[1]))
                emit(
                    worker_pb2.Output(request_id=request.request_id, finish_reason=generation_pb2.FINISH_REASON_LENGTH)
                )


def begin(engine: SlowEngine, **sizes: int) -> "asyncio.Task[None]":
    return asyncio.create_task(warm_up(engine.submit, **{"context_tokens": 1_000, "step_tokens": 2_048, **sizes}))


async def test_one_is_answered_alone_then_several_of_a_kind_then_a_full_step_whatever_is_refused() -> None:
    engine = SlowEngine()
    warming = begin(engine)
    while not warming.done():
        await engine.answer_all()
    assert [number for number in engine.together if number] == [1, *[SEVERAL] * len(WAYS_TO_SAMPLE), 32]


async def test_it_waits_for_the_last_of_them() -> None:
    engine = SlowEngine()
    warming = begin(engine)
    await engine.answer_all()
    await asyncio.sleep(0)
    last = engine.waiting.pop()
    for _ in range(5):
        await engine.answer_all()
    assert engine.together[1:] == [SEVERAL - 1, 0, 0, 0, 0]
    engine.waiting.append(last)
    while not warming.done():
        await engine.answer_all()


async def test_prompts_fit_a_short_context() -> None:
    engine = SlowEngine()
    warming = begin(engine, context_tokens=16)
    await asyncio.sleep(0)
    [(request, _)] = engine.waiting
    assert len(request.prompt_token_ids) + request.sampling.max_tokens <= 16
    warming.cancel()
