"""A fleet that changes its model by restarting workers one by one, and what is told meanwhile."""

import asyncio
from contextlib import AsyncExitStack

import grpc
import pytest

from common.client import Client, ask
from scheduler import worker_keeper
from scheduler.refusals import Refusals
from tests.integration.apart import address_of, lone_scheduler, lone_worker, until_workers
from tests.integration.house import eventually, failure
from tests.integration.stream import Stream, reason, tokens
from tests.processes import free_port
from tests.recorded_log import RecordedLog


async def test_the_model_is_let_go_when_no_worker_has_it_and_told_with_typed_errors_meanwhile() -> None:
    first, second = (f"127.0.0.1:{free_port()}" for _ in range(2))
    async with AsyncExitStack() as old, lone_scheduler(first, second) as scheduler:
        client = await old.enter_async_context(Client(address_of(scheduler)))
        async with AsyncExitStack() as oldest:
            await oldest.enter_async_context(lone_worker(listen=first, served_model_name="old"))
            await until_workers(client, 1)
            async with lone_worker(listen=second, served_model_name="new"):
                # The new one waits while an old one is there.
                answer = await client.generate(ask("hi", sampling=tokens(3)))
                assert answer.accepted
                assert answer.accepted.model == "old"
                await oldest.aclose()
                async with asyncio.timeout(10):
                    while (name := await served(client)) != "new":
                        assert name in ("old", "NO_WORKER")
                request = ask("hi", sampling=tokens(3))
                request.model = "old"
                assert reason(await failure(client.generate(request))) == "MODEL_NOT_FOUND"
                async with lone_worker(listen=first, served_model_name="new"):
                    await eventually(lambda: scheduler.dispatcher.workers == 2)


async def served(client: Client) -> str:
    """The model that answers now, or the error's reason."""
    try:
        answer = await client.generate(ask("hi", sampling=tokens(3)), timeout_s=5)
    except grpc.aio.AioRpcError as error:
        return reason(error)
    assert answer.accepted
    return answer.accepted.model


async def test_a_request_that_waits_for_a_model_that_is_gone_is_told_so() -> None:
    address = f"127.0.0.1:{free_port()}"
    async with lone_scheduler(address) as scheduler, Client(address_of(scheduler)) as client:
        async with lone_worker(listen=address, served_model_name="old"):
            await until_workers(client, 1)
            waiting = Stream(client, ask("hi", sampling=tokens(2000)), timeout_s=60)
            await waiting.until("chunk")
        async with lone_worker(listen=address, served_model_name="new"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await waiting.finished()
            assert reason(caught.value) in ("NO_WORKER", "WORKER_LOST")
            await until_workers(client, 1)
            assert await served(client) == "new"


async def test_a_worker_that_is_refused_again_and_again_is_told_of_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = RecordedLog()
    monkeypatch.setattr(worker_keeper, "log", log)
    async with (
        lone_worker(served_model_name="old") as (worker, _),
        lone_worker(served_model_name="new") as (other, _),
        lone_scheduler(address_of(worker), address_of(other)),
    ):
        await eventually(lambda: len(log.told("worker is not attached")) == 2)
    assert [line["retry_s"] for line in log.told("worker is not attached")] == [0.5, 1.0]


def test_the_same_reason_is_news_after_one_two_four_and_eight_times_and_another_at_once() -> None:
    refused = Refusals()
    assert [n for n in range(1, 20) if refused.is_news("another model")] == [1, 2, 4, 8, 16]
    assert refused.is_news("no answer")
    assert [refused.delay_s() for _ in range(6)] == [0.5, 1, 2, 4, 8, 8]
