"""The ways to ask vLLM, as callers of a load: in this process, over HTTP, and over vLLM's own gRPC."""

import re
from itertools import count
from typing import Any, Self

from tokenizers import Tokenizer

from tests.bench.load import SAMPLING, Heard

USAGE_TAIL_BYTES = 2_000
WHOLE_VOCABULARY = 2**20  # more words than any model has
COMPLETION_TOKENS = re.compile(rb'"completion_tokens":\s*(\d+)')


class InProcess:
    """AsyncLLM in the client's own process, as a Python program uses it."""

    def __init__(self, worker_options: list[str]) -> None:
        self._options = worker_options
        self._numbers = count()

    async def __aenter__(self) -> Self:
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        from worker.config import WorkerSettings
        from worker.vllm_arguments import engine_args

        settings = WorkerSettings.load(self._options, prog="in-process")
        context = UsageContext.OPENAI_API_SERVER
        config = engine_args(settings).create_engine_config(context)
        self._llm = AsyncLLM.from_vllm_config(config, usage_context=context, disable_log_stats=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._llm.shutdown()

    async def answer(self, prompt: list[int], tokens: int, heard: Heard) -> int:
        """See Caller."""
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        sampling = SamplingParams(**SAMPLING, max_tokens=tokens, output_kind=RequestOutputKind.DELTA)
        counted = 0
        async for output in self._llm.generate(tokens_input(prompt), sampling, f"bench-{next(self._numbers)}"):
            if new := len(output.outputs[0].token_ids):
                counted += new
                heard(new)
        return counted


class Completions:
    """Streams of /v1/completions, read as cheaply as Python can: events are counted, and only the usage is parsed."""

    def __init__(self, url: str, model: str) -> None:
        self._url, self._model = f"{url}/v1/completions", model

    async def __aenter__(self) -> Self:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def answer(self, prompt: list[int], tokens: int, heard: Heard) -> int:
        """See Caller. An event does not say how many tokens it brings: it counts as one."""
        tail = b""
        async with self._session.post(self._url, json=self.body(prompt, tokens)) as response:
            if response.status != 200:
                raise RuntimeError(f"HTTP {response.status}: {(await response.text())[:200]}")
            async for piece in response.content.iter_any():
                tail = (tail + piece)[-USAGE_TAIL_BYTES:]
                if events := piece.count(b"data: "):
                    heard(events)
        found = COMPLETION_TOKENS.findall(tail)
        return int(found[-1]) if found else 0

    def body(self, prompt: list[int], tokens: int) -> dict[str, Any]:
        """Return the request. Some servers refuse a top_k of 0, some one of -1; all know one of everything."""
        streamed = {"stream": True, "stream_options": {"include_usage": True}}
        sampling = {**SAMPLING, "top_k": WHOLE_VOCABULARY}
        return {"model": self._model, "prompt": prompt, "max_tokens": tokens, **streamed, **sampling}


class VllmGrpc:
    """vLLM's own gRPC service, which sends token ids and leaves the text to its caller."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._numbers = count()

    async def __aenter__(self) -> Self:
        import grpc
        from smg_grpc_proto import vllm_engine_pb2, vllm_engine_pb2_grpc

        self._messages = vllm_engine_pb2
        self._channel = grpc.aio.insecure_channel(self._address)
        self._stub = vllm_engine_pb2_grpc.VllmEngineStub(self._channel)
        await self._channel.channel_ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def answer(self, prompt: list[int], tokens: int, heard: Heard) -> int:
        """See Caller."""
        request = self._messages.GenerateRequest(
            request_id=f"bench-{id(self)}-{next(self._numbers)}",
            tokenized=self._messages.TokenizedInput(input_ids=prompt),
            sampling_params=self._messages.SamplingParams(**SAMPLING, max_tokens=tokens),
            stream=True,
        )
        counted = 0
        async for response in self._stub.Generate(request):
            if response.HasField("chunk"):  # The message of the end says the last chunk's tokens again.
                counted += response.chunk.completion_tokens
                heard(response.chunk.completion_tokens)
        return counted


class TextCompletions(Completions):
    """The same from prompts of text, for a server that takes no token ids: about as many tokens."""

    def __init__(self, url: str, model: str, folder: str) -> None:
        super().__init__(url, model)
        self._tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")

    def body(self, prompt: list[int], tokens: int) -> dict[str, Any]:
        """Return the request."""
        return {**super().body(prompt, tokens), "prompt": self._tokenizer.decode(prompt)}
