"""Requests that arrive when a trace says, whatever becomes of those before them, and callers that hang up in time."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from scheduler.simulation.driver import End, Outcome
from scheduler.simulation.trace import Arrival
from scheduler.simulation.workload import CLASSES

SAMPLING = {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.0, "ignore_eos": True}
FIRST_ID, IDS = 100, 900


class Refused(Exception):
    """The server refused the request, or gave it up in its queue."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as a server sees it.

    Attributes:
        arrival: What the trace says of it.
        prompt: Its token ids, which no other request's begin with.
        deadline_s: When its caller hangs up, in seconds from its arrival.

    """

    arrival: Arrival
    prompt: list[int]
    deadline_s: float


class Server(Protocol):
    """Whoever answers."""

    def tokens(self, asked: Asked) -> AsyncIterator[int]:
        """Yield the number of new tokens as they come; leaving early hangs up. Raises Refused."""
        ...


async def offer(server: Server, arrivals: Sequence[Arrival], *, slower: float) -> list[Outcome]:
    """Let all requests arrive in their time; return what became of each, as the simulation tells it.

    ``slower``: how many times as long as its class says a caller waits. Times are measured from the scheduled arrival.
    """
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    tasks = []
    for number, arrival in enumerate(arrivals):
        await asyncio.sleep(max(0.0, began_s + arrival.arrival_s - loop.time()))
        tasks.append(asyncio.create_task(ask(server, number, arrival, began_s, slower)))
    return list(await asyncio.gather(*tasks))


async def ask(server: Server, number: int, arrival: Arrival, began_s: float, slower: float) -> Outcome:
    """Ask for one answer and read it to its end, or to that of the caller's patience."""
    loop, kind, outcome = asyncio.get_running_loop(), CLASSES[arrival.service_class], Outcome(arrival)
    arrived_s = began_s + arrival.arrival_s
    patience_s = kind.patience_s if kind.patience_s is not None else kind.deadline_s
    asked = Asked(arrival, prompt_of(number, arrival.prompt_tokens), slower * kind.deadline_s)
    brought = 0
    try:
        async with asyncio.timeout_at(arrived_s + slower * patience_s) as patience:
            async for tokens in server.tokens(asked):
                if outcome.first_s is None:
                    outcome.first_s = loop.time() - began_s
                    patience.reschedule(arrived_s + asked.deadline_s)
                brought += tokens
        outcome.end = End.DONE if brought == arrival.output_tokens else End.CANCELLED
    except TimeoutError:
        outcome.end = End.CANCELLED
    except Refused:
        outcome.end = End.REFUSED
    outcome.end_s = loop.time() - began_s
    outcome.computed_tokens = (arrival.prompt_tokens + brought) if outcome.first_s is not None else 0
    return outcome


def prompt_of(number: int, tokens: int) -> list[int]:
    """Return a prompt that no other number's begins like, so that no prefix cache helps."""
    ids = random.Random(number).choices(range(FIRST_ID, FIRST_ID + IDS), k=tokens)
    ids[:2] = (FIRST_ID + number % IDS, FIRST_ID + number // IDS)[:tokens]
    return ids
