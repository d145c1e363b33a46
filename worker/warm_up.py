"""Answers that nobody asked for, so that what an engine compiles on first use is there when somebody does."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Any

import structlog

from sluice.v1 import generation_pb2
from sluice.worker.v1 import worker_pb2
from worker.engine import Emit

PROMPT_TOKENS = 64
SEVERAL = 8  # from so many sequences on vLLM chooses tokens by other kernels
PLAIN: dict[str, Any] = {"temperature": 0.7, "top_p": 1.0, "repetition_penalty": 1.0, "max_tokens": 4}
# What most callers ask for. What is rarer is not tried: each way is one more thing that an engine may not survive.
WAYS_TO_SAMPLE: Sequence[dict[str, Any]] = (
    {"temperature": 0.0},
    {"top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05},
    {"logprobs": 1},
    {"structured_output": generation_pb2.StructuredOutput(json_object=True)},
)

log = structlog.get_logger("worker")


async def warm_up(submit: Callable[[worker_pb2.Submit, Emit], None], *, context_tokens: int, step_tokens: int) -> None:
    """Have an engine answer in each way to sample: one request alone, several of a kind, a full step of all kinds.

    What it refuses is left to those who ask for it. Returns, too, when the engine dies.

    Args:
        submit: See Engine.submit.
        context_tokens: The longest that a sequence may be.
        step_tokens: The most tokens of a step.

    """
    prompt_tokens = min(PROMPT_TOKENS, context_tokens // 2)
    await _answer(submit, WAYS_TO_SAMPLE[:1], prompt_tokens)
    for way in WAYS_TO_SAMPLE:
        await _answer(submit, [way] * SEVERAL, prompt_tokens)
    full = max(step_tokens // prompt_tokens, len(WAYS_TO_SAMPLE))
    await _answer(submit, list(islice(cycle(WAYS_TO_SAMPLE), full)), prompt_tokens)


async def _answer(
    submit: Callable[[worker_pb2.Submit, Emit], None], ways: Sequence[dict[str, Any]], prompt_tokens: int
) -> None:
    left = len(ways)
    over = asyncio.Event()

    def heard(output: worker_pb2.Output) -> None:
        nonlocal left
        if output.HasField("failure"):
            log.debug("warming up", request=output.request_id, failure=output.failure.message)
        elif not output.finish_reason:
            return
        left -= 1
        if not left:
            over.set()

    for number, way in enumerate(ways):
        sampling = generation_pb2.SamplingParams(**{**PLAIN, **way})
        prompt = [number] * prompt_tokens
        submit(worker_pb2.Submit(request_id=f"warm-up-{number}", prompt_token_ids=prompt, sampling=sampling), heard)
    await over.wait()
