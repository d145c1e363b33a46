"""Thousands of requests that come at once: none is lost."""

import asyncio
from collections import Counter

import grpc

from common.client import Client, ask
from sluice.v1 import inference_pb2
from tests.integration.house import house
from tests.integration.stream import tokens

STREAMS = 4096
REQUEST = ask("hi", sampling=tokens(3))
WORKER = {"max_sequences": STREAMS, "max_step_tokens": 2 * STREAMS, "simulated": {"speed": 0}}
SCHEDULER = {"policy": "fcfs", "max_queued_requests": STREAMS, "default_deadline_s": 300}


async def ending(client: Client) -> str:
    try:
        answer = await client.generate(REQUEST)
    except grpc.aio.AioRpcError as error:
        return f"{error.code()}: {error.details()}"
    return "whole" if len(answer.token_ids[0]) == 3 else "cut"


async def test_4096_streams_opened_at_once_are_all_answered() -> None:
    async with house(worker=WORKER, scheduler=SCHEDULER) as built:
        endings = Counter(await asyncio.gather(*(ending(built.client) for _ in range(STREAMS))))
    assert endings == {"whole": STREAMS}


async def test_4096_requests_submitted_to_a_session_in_one_message_are_all_answered() -> None:
    submits = [inference_pb2.SessionSubmit(id=str(number), request=REQUEST) for number in range(STREAMS)]
    finished, received = 0, 0
    async with house(worker=WORKER, scheduler=SCHEDULER) as built:
        call = built.client.stub.GenerateSession()
        await call.write(inference_pb2.GenerateSessionRequest(submits=submits))
        await call.done_writing()
        while isinstance(message := await call.read(), inference_pb2.GenerateSessionResponse):
            for event in message.events:
                finished += event.response.HasField("finished")
                received += len(event.response.chunk.token_ids)
    assert (finished, received) == (STREAMS, 3 * STREAMS)
