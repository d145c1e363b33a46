"""The ways to ask Sluice, as callers of a load."""

from typing import Self

from common.client import Client, ask
from sluice.v1 import inference_pb2
from tests.bench.load import SAMPLING, Heard

SERVE_ALL = ("--policy", "fcfs", "--max-queued-requests", "10000")
"""The scheduler's options by which nothing is refused: peers refuse nothing either."""

TIMEOUT_S, SESSION_TIMEOUT_S = 600.0, 3_600.0


def count(response: inference_pb2.GenerateResponse, heard: Heard) -> int:
    """Tell of a message's tokens; return how many the whole answer has, by its receipt, which is the last message."""
    if response.HasField("chunk"):
        heard(len(response.chunk.token_ids))
    return response.finished.usage.output_tokens


class Generate:
    """One Generate call for each answer."""

    def __init__(self, address: str) -> None:
        self._client = Client(address)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        await self._client.ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.__aexit__(None, None, None)

    async def answer(self, prompt: list[int], tokens: int, heard: Heard) -> int:
        """See Caller."""
        request = ask(token_ids=prompt, sampling={**SAMPLING, "max_tokens": tokens})
        counted = 0
        async for response in self._client.stream(request, timeout_s=TIMEOUT_S):
            counted = count(response, heard)
        return counted


class GenerateSession:
    """All answers of a process over one GenerateSession call."""

    def __init__(self, address: str) -> None:
        self._client = Client(address)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        await self._client.ready()
        self._session = await self._client.session(timeout_s=SESSION_TIMEOUT_S).__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.__aexit__(None, None, None)
        await self._client.__aexit__(None, None, None)

    async def answer(self, prompt: list[int], tokens: int, heard: Heard) -> int:
        """See Caller."""
        request = ask(token_ids=prompt, sampling={**SAMPLING, "max_tokens": tokens})
        counted = 0
        async for response in self._session.generate(request, timeout_s=TIMEOUT_S):
            counted = count(response, heard)
        return counted


SLUICE = ("Generate", "GenerateSession")
"""The ways there are, by the names of their classes."""
