"""Requests and capacities for tests, with only what a test is about spelled out."""

from dataclasses import replace

from scheduler.core.fleet import Capacity
from scheduler.core.request import Priority, Request

# Room for everything, so that a test narrows only what it is about.
LARGE = Capacity(max_sequences=256, kv_cache_tokens=100_000, max_step_tokens=2_048)
# One sequence at a time.
SINGLE = Capacity(max_sequences=1, kv_cache_tokens=100_000, max_step_tokens=2_048)


def make_request(
    request_id: str = "a",
    *,
    priority: Priority = Priority.NORMAL,
    arrival_s: float = 0.0,
    deadline_s: float = 1_000.0,
    prompt_tokens: int = 10,
    max_tokens: int = 100,
    sequences: int = 1,
    service_class: str = "",
    tenant: str = "",
    prefixes: tuple[bytes, ...] = (),
) -> Request:
    return Request(
        request_id,
        priority,
        arrival_s,
        deadline_s,
        prompt_tokens,
        max_tokens,
        sequences,
        service_class,
        tenant,
        prefixes,
    )


def resumption(request: Request, output_tokens: int) -> Request:
    """The request as it goes on elsewhere after so many tokens of output of each sequence, at most max_tokens - 1."""
    return replace(
        request,
        prompt_tokens=request.prompt_tokens + request.sequences * output_tokens,
        max_tokens=request.max_tokens - output_tokens,
        resumes=request.resumes or request,
    )
