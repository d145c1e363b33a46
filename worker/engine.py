"""The engine as the worker sees it: what every implementation promises, and nothing heavy to import."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sluice.worker.v1 import worker_pb2

# Every engine refuses it, since only an engine knows the model's end tokens.
ONLY_ENDS = "must be 0 where allowed_token_ids has only ids that end the answer; got {}"

Emit = Callable[[worker_pb2.Output], None]


@dataclass(frozen=True, slots=True)
class EngineDescription:
    """What an engine turned out to be once it had started.

    Attributes:
        name: Engine and version, for people: ``vllm 0.32.0``.
        model: The served model.
        capacity: What the engine holds at once.
        tokenizer: The JSON document that ``WorkerService.GetTokenizer`` sends.

    """

    name: str
    model: worker_pb2.Model
    capacity: worker_pb2.Capacity
    tokenizer: bytes


class EngineStartError(Exception):
    """The engine could not start; the message says why and what to change."""


class Engine(Protocol):
    """Generates tokens for many requests at once.

    All methods are called on the event loop's thread, and all callbacks are made there.
    """

    async def start(
        self, *, on_load: Callable[[worker_pb2.Load], None], on_death: Callable[[str], None]
    ) -> EngineDescription:
        """Load the model.

        Args:
            on_load: Called after each engine step, after that step's outputs were emitted, with the engine's own
                counters; also after the step in which aborted requests were dropped.
            on_death: Called once, with the reason, when the engine can serve no more. Every request that was running
                then gets an output with a failure first.

        Raises:
            EngineStartError: The model or the options will not do.

        """
        ...

    def submit(self, request: worker_pb2.Submit, emit: Emit) -> None:
        """Begin a request and return at once; never raises.

        ``emit`` gets the outputs. Each sequence's last output carries a finish reason; a request that fails gets one
        output with a ``failure`` and nothing after it. Token ids of a sequence arrive in order and without gaps, and
        their texts join to the sequence's text.
        """
        ...

    def abort(self, request_id: str) -> None:
        """Stop a request within one engine step; ``emit`` is not called for it again. Unknown ids are ignored."""
        ...

    async def close(self) -> None:
        """Stop the engine and free what it holds."""
        ...
