"""Collects what an engine emits, and waits on conditions over it."""

import asyncio
import itertools
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

from tokenizers import Tokenizer

from sluice.v1 import generation_pb2
from sluice.worker.v1 import worker_pb2
from worker.engine import Engine

PATIENCE_S = 60.0

# A submit is complete: every value that shapes the distribution is named.
GREEDY: dict[str, Any] = {
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "max_tokens": 16,
    "n": 1,
}


class Answer:
    """Everything that one request got.

    Attributes:
        outputs: All of it, in order.
        failure: Why it failed, once it has.
        violations: What the contract forbids and happened; noted, not raised, since an engine is on the stack.

    """

    def __init__(self, request: worker_pb2.Submit) -> None:
        self.request = request
        self.outputs: list[worker_pb2.Output] = []
        self.failure: worker_pb2.Failure | None = None
        self.violations: list[str] = []
        self.aborted = False
        self._sequences: defaultdict[int, list[worker_pb2.Output]] = defaultdict(list)
        self._ended: set[int] = set()

    def add(self, output: worker_pb2.Output) -> None:
        self.violations += self._violations_of(output)
        self.outputs.append(output)
        if output.HasField("failure"):
            self.failure = output.failure
            return
        self._sequences[output.index].append(output)
        if output.finish_reason:
            self._ended.add(output.index)

    def of(self, index: int) -> list[worker_pb2.Output]:
        return self._sequences[index]

    def text(self, index: int = 0) -> str:
        return "".join(output.text for output in self.of(index))

    def token_ids(self, index: int = 0) -> list[int]:
        return [token_id for output in self.of(index) for token_id in output.token_ids]

    def logprobs(self, index: int = 0) -> list[generation_pb2.PositionLogprobs]:
        return [position for output in self.of(index) for position in output.logprobs]

    def last(self, index: int = 0) -> worker_pb2.Output:
        return self.of(index)[-1]

    @property
    def is_complete(self) -> bool:
        return self.failure is not None or len(self._ended) == (self.request.sampling.n or 1)

    def _violations_of(self, output: worker_pb2.Output) -> Iterator[str]:
        if output.request_id != self.request.request_id:
            yield f"an output of {output.request_id}"
        if self.aborted:
            yield "an output after the abort"
        if self.failure:
            yield "an output after a failure"
        if output.index in self._ended:
            yield f"an output after the end of sequence {output.index}"
        if self.request.sampling.HasField("logprobs") and len(output.logprobs) != len(output.token_ids):
            yield f"{len(output.logprobs)} log-probabilities for {len(output.token_ids)} tokens"


class CollectingEngine:
    """A started engine and everything it said."""

    _ids = itertools.count()

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.answers: list[Answer] = []
        self.loads: list[worker_pb2.Load] = []
        self.deaths: list[str] = []
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self.description = await self.engine.start(on_load=self._on_load, on_death=self._on_death)
        self.tokenizer_document: dict[str, Any] = json.loads(self.description.tokenizer)
        self.tokenizer: Tokenizer = Tokenizer.from_str(self.tokenizer_document["tokenizer"])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.engine.close()

    @property
    def load(self) -> worker_pb2.Load:
        return self.loads[-1] if self.loads else worker_pb2.Load()

    @property
    def is_empty(self) -> bool:
        return not self.load.running and not self.load.waiting and not self.load.kv_cache_usage

    @property
    def context_tokens(self) -> int:
        return self.description.model.context_tokens

    @property
    def eos_id(self) -> int:
        return self.tokenizer.get_vocab()[self.tokenizer_document["special_tokens"]["eos_token"]]

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True)

    def words(self, count: int) -> list[int]:
        """Return tokens of which each is a lower-case word, with or without a space before it."""
        texts = ((token_id, self.decode([token_id])) for token_id in sorted(self.tokenizer.get_vocab().values()))
        words = (token_id for token_id, text in texts if len(text) > 3 and text.strip().isalpha() and text.islower())
        return list(itertools.islice(words, count))

    def random_prompt(self, tokens: int) -> list[int]:
        """Make a prompt that no other request had."""
        special = set(self.tokenizer.get_added_tokens_decoder())
        ids = sorted(set(self.tokenizer.get_vocab().values()) - special)
        return random.Random(next(self._ids)).choices(ids, k=tokens)

    def submit(self, prompt: str | Sequence[int], **sampling: Any) -> Answer:
        """Submit a request under a fresh id; greedy and of 16 tokens where ``sampling`` does not say otherwise."""
        request = worker_pb2.Submit(
            request_id=f"request-{next(self._ids)}",
            prompt_token_ids=self.encode(prompt) if isinstance(prompt, str) else prompt,
            sampling=generation_pb2.SamplingParams(**{**GREEDY, **sampling}),
        )
        return self.submit_request(request)

    def submit_request(self, request: worker_pb2.Submit) -> Answer:
        answer = Answer(request)
        self.answers.append(answer)

        def emit(output: worker_pb2.Output) -> None:
            answer.add(output)
            self._notify()

        self.engine.submit(request, emit)
        return answer

    async def generate(self, prompt: str | Sequence[int], **sampling: Any) -> Answer:
        """Submit a request and wait for its end."""
        answer = self.submit(prompt, **sampling)
        await self.until(lambda: answer.is_complete)
        return answer

    def abort(self, answer: Answer) -> None:
        answer.aborted = True
        self.engine.abort(answer.request.request_id)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, which is looked at whenever the engine has said something."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await self._changed.wait()

    def _on_load(self, load: worker_pb2.Load) -> None:
        self.loads.append(worker_pb2.Load.FromString(load.SerializeToString()))  # An engine may reuse its own.
        self._notify()

    def _on_death(self, reason: str) -> None:
        self.deaths.append(reason)
        for answer in self.answers:
            if not answer.is_complete and not answer.aborted:
                answer.violations.append("no failure before the engine's death")
        self._notify()

    def _notify(self) -> None:
        """Wake everyone who waits; whoever looks away now waits for the next time."""
        self._changed.set()
        self._changed = asyncio.Event()
