"""A closed loop of streams, as one client process runs it, and what it saw."""

import asyncio
import time
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, Self

SAMPLING = {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "ignore_eos": True}
"""The sampling values of every arm: as little work for the engine as they can, since front ends are compared."""

Heard = Callable[[int], None]
"""Told of each message of an answer: the new tokens in it, 1 where the message does not say."""


class Caller(Protocol):
    """A way to ask for answers; an asynchronous context manager that is entered before it is asked."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def answer(self, prompt: list[int], tokens: int, heard: Heard) -> int:
        """Get an answer of so many tokens; return how many tokens the server's own count says it has."""
        ...


@dataclass(frozen=True, slots=True)
class Load:
    """What to ask for.

    Attributes:
        streams: Answers that are asked for at once.
        prompt_tokens: Length of each prompt.
        tokens: Length of each answer.
        answers: Answers that each stream gets at the least.
        seconds: A stream that had its answers goes on with new ones until so many seconds have passed.
        spread_s: Streams begin spread evenly over this time.
        record_from_s: Times of what happens earlier are not recorded, nor of what happens after ``seconds`` if set.
        first_prompt: Number of the first prompt; prompts with different numbers share no beginning.

    """

    streams: int
    prompt_tokens: int
    tokens: int
    answers: int = 1
    seconds: float = 0.0
    spread_s: float = 0.0
    record_from_s: float = 0.0
    first_prompt: int = 0


@dataclass(slots=True)
class Seen:
    """What was seen; times in seconds, moments by the system's monotonic clock, which all processes share.

    Attributes:
        began_s: When the first answer was asked for.
        ended_s: When the last one had ended.
        requests: Answers that came whole.
        tokens: Their tokens, by the server's own count.
        messages: Messages that they came in.
        failures: Answers that did not, by reason.
        ttft_s: Times from asking to the first message with a token.
        itl_s: Times from a token to the next of its answer; tokens of one message are 0 apart.

    """

    began_s: float = 0.0
    ended_s: float = 0.0
    requests: int = 0
    tokens: int = 0
    messages: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    ttft_s: array = field(default_factory=lambda: array("d"))  # type: ignore[type-arg]
    itl_s: array = field(default_factory=lambda: array("d"))  # type: ignore[type-arg]

    def add(self, other: "Seen") -> None:
        """Take in what another process saw at the same time."""
        self.began_s = min(self.began_s or other.began_s, other.began_s)
        self.ended_s = max(self.ended_s, other.ended_s)
        self.requests += other.requests
        self.tokens += other.tokens
        self.messages += other.messages
        self.failures += other.failures
        self.ttft_s += other.ttft_s
        self.itl_s += other.itl_s

    @property
    def tokens_per_s(self) -> float:
        """Tokens of whole answers by the time from the first request to the last answer's end."""
        return self.tokens / (self.ended_s - self.began_s)


async def run_load(caller: Caller, load: Load) -> Seen:
    """Run the streams to their ends; a failure ends its own answer only."""
    seen = Seen(began_s=time.monotonic())
    await asyncio.gather(*(_stream(caller, load, number, seen) for number in range(load.streams)))
    seen.ended_s = time.monotonic()
    return seen


async def _stream(caller: Caller, load: Load, number: int, seen: Seen) -> None:
    begins_s = seen.began_s + load.spread_s * number / load.streams
    await asyncio.sleep(begins_s - time.monotonic())
    answers = 0
    while answers < load.answers or time.monotonic() < seen.began_s + load.seconds:
        prompt = make_prompt(load.first_prompt + number + answers * load.streams, load.prompt_tokens)
        try:
            await _answer(caller, prompt, load, seen)
        except Exception as error:  # Whatever a server does wrong is a figure, not the end of the run.
            seen.failures[_reason(error)] += 1
        answers += 1


async def _answer(caller: Caller, prompt: list[int], load: Load, seen: Seen) -> None:
    record_from_s = seen.began_s + load.record_from_s
    record_to_s = seen.began_s + load.seconds if load.seconds else float("inf")
    asked_s = last_s = time.monotonic()
    first = True

    def heard(tokens: int) -> None:
        nonlocal first, last_s
        now, seen.messages = time.monotonic(), seen.messages + 1
        if record_from_s <= now <= record_to_s:
            if not first:
                seen.itl_s.append(now - last_s)
            elif asked_s >= record_from_s:
                seen.ttft_s.append(now - asked_s)
            if tokens > 1:
                seen.itl_s.extend([0.0] * (tokens - 1))
        first, last_s = False, now

    tokens = await caller.answer(prompt, load.tokens, heard)
    if tokens != load.tokens:
        raise ValueError(f"{tokens} tokens, expected {load.tokens}")
    seen.requests += 1
    seen.tokens += tokens


def make_prompt(number: int, tokens: int) -> list[int]:
    """Return a prompt of a beginning that no other of 64 million numbers has, so that no prefix cache helps."""
    beginning = (100 + number % 400, 100 + number // 400 % 400, 100 + number // 160_000 % 400)
    return [*beginning, *(100 + (number + 7 * place) % 400 for place in range(tokens - 3))][:tokens]


def _reason(error: Exception) -> str:
    code = getattr(error, "code", None)
    return str(code().name) if callable(code) else f"{type(error).__name__}: {error}"[:120]
