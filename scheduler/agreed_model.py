"""The one model that all workers serve: the first worker tells it, and every other must serve the same."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from scheduler.served_model import ServedModel
from scheduler.worker_session import Metadata
from sluice.worker.v1 import worker_pb2, worker_pb2_grpc

TOKENIZER_S = 30.0


class AgreedModel:
    """Learns the model from whoever joins first, and from whoever comes once no worker has it any more.

    Attributes:
        served: The model; None until the first worker has told it.

    """

    def __init__(self, on_replace: Callable[[], None] = lambda: None) -> None:
        """Begin without a model; ``on_replace`` hears when one takes another's place."""
        self.served: ServedModel | None = None
        self._on_replace = on_replace
        self._holders = 0
        self._freed = asyncio.Event()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the model while a worker has it."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            if not self._holders:
                self._freed.set()
                self._freed = asyncio.Event()

    async def freed_within(self, delay_s: float) -> None:
        """Wait until no worker has the model any more, or for so long."""
        try:
            async with asyncio.timeout(delay_s):
                await self._freed.wait()
        except TimeoutError:
            return

    async def agree(
        self, model: worker_pb2.Model, stub: "worker_pb2_grpc.WorkerServiceAsyncStub", metadata: Metadata
    ) -> None:
        """Take over the first worker's model; check that every other serves the same.

        Raises:
            ValueError: It serves another model.
            TokenizerError: Its tokenizer cannot be used.
            grpc.aio.AioRpcError: It does not send its tokenizer, or not in time.

        """
        if not self._is_served(model) and not self._holders:
            call = stub.GetTokenizer(worker_pb2.GetTokenizerRequest(), metadata=metadata, timeout=TOKENIZER_S)
            pieces = [piece.data async for piece in call]
            found = await asyncio.to_thread(ServedModel.from_worker, model, b"".join(pieces))
            if not self._is_served(model) and not self._holders:  # another worker may have told it meanwhile
                self._replace(found)
        assert self.served is not None
        if not self._is_served(model):
            raise ValueError(f"it serves {model.name!r}, not {self.served.name!r}, or its tokenizer differs")
        self.served.context_tokens = max(self.served.context_tokens, model.context_tokens)

    def _is_served(self, model: worker_pb2.Model) -> bool:
        served = self.served
        return served is not None and (served.name, served.tokenizer_digest) == (model.name, model.tokenizer_digest)

    def _replace(self, found: ServedModel) -> None:
        had_one, self.served = self.served is not None, found
        if had_one:
            self._on_replace()
