"""A worker of a long context beside one of a short one."""

import asyncio

from common.client import ask
from sluice.v1.inference_pb2 import GetModelInfoRequest
from tests.integration.house import house
from tests.integration.stream import LONG, Stream, tokens

CONTEXTS = [{"context_tokens": 1_000, "max_sequences": 4}, {"context_tokens": 50_000, "max_sequences": 4}]
LONG_PROMPT = [300] * 5_000


async def test_long_prompts_go_to_the_long_context_and_short_ones_past_them_to_the_other() -> None:
    async with house(workers=CONTEXTS) as built:
        info = await built.client.stub.GetModelInfo(GetModelInfoRequest())
        assert info.context_tokens == 50_000
        short, long = built.engines
        long_ones = [Stream(built, ask(token_ids=LONG_PROMPT, sampling=LONG)) for _ in range(6)]
        for stream in long_ones[:4]:
            await stream.until("chunk")
        short_ones = [Stream(built, ask("hi", sampling=tokens(20))) for _ in range(8)]
        await asyncio.gather(*(stream.finished() for stream in short_ones))
        assert len(short.submitted) == len(short_ones)
        assert len(long.submitted) == 4
        for stream in long_ones:
            stream.call.cancel()
