"""The one model that all workers serve: the first worker tells it, and every other must serve the same."""

import asyncio

from scheduler.served_model import ServedModel
from scheduler.worker_session import Metadata
from sluice.worker.v1 import worker_pb2, worker_pb2_grpc

TOKENIZER_S = 30.0


class AgreedModel:
    """Learns the model from whoever joins first.

    Attributes:
        served: The model; None until the first worker has told it.

    """

    def __init__(self) -> None:
        self.served: ServedModel | None = None

    async def agree(
        self, model: worker_pb2.Model, stub: "worker_pb2_grpc.WorkerServiceAsyncStub", metadata: Metadata
    ) -> None:
        """Take over the first worker's model; check that every other serves the same.

        Raises:
            ValueError: It serves another model.
            TokenizerError: Its tokenizer cannot be used.
            grpc.aio.AioRpcError: It does not send its tokenizer, or not in time.

        """
        if self.served is None:
            call = stub.GetTokenizer(worker_pb2.GetTokenizerRequest(), metadata=metadata, timeout=TOKENIZER_S)
            pieces = [piece.data async for piece in call]
            found = await asyncio.to_thread(ServedModel.from_worker, model, b"".join(pieces))
            self.served = self.served or found  # another worker may have told it meanwhile
        if (self.served.name, self.served.tokenizer_digest) != (model.name, model.tokenizer_digest):
            raise ValueError(f"it serves {model.name!r}, not {self.served.name!r}, or its tokenizer differs")
        self.served.context_tokens = max(self.served.context_tokens, model.context_tokens)
