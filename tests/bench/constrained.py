"""Time to the first token under each kind of constraint: one never seen before, and one seen before.

Run alone, on the worker's own engine: ``python -m tests.bench.constrained``. It uses nothing that older code lacks:
copied to another commit's tree it measures that one.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable

from sluice.v1.generation_pb2 import Choices, StructuredOutput
from tests import processes
from tests.worker.collecting import CollectingEngine
from worker.config import WorkerSettings
from worker.vllm_engine import VllmEngine

PROMPT_TOKENS = 32


def simple_schema(number: int) -> StructuredOutput:
    fields = {"name": {"type": "string"}, f"age{number}": {"type": "integer"}}
    return schema({"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False})


def medium_schema(number: int) -> StructuredOutput:
    """Make a schema with lists of objects, enumerations and definitions."""
    line = {
        "type": "object",
        "properties": {
            "article": {"type": "string", "maxLength": 40},
            "pieces": {"type": "integer", "minimum": 1, "maximum": 100},
            "state": {"enum": ["new", "paid", "sent", "back", f"state {number}"]},
        },
        "required": ["article", "pieces", "state"],
        "additionalProperties": False,
    }
    fields = {f"field{index}": {"type": ["string", "null"]} for index in range(12)}
    fields |= {"lines": {"type": "array", "items": {"$ref": "#/$defs/line"}, "minItems": 1, "maxItems": 20}}
    document = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    return schema({**document, "$defs": {"line": line}})


def schema(value: object) -> StructuredOutput:
    return StructuredOutput(json_schema=json.dumps(value))


KINDS: dict[str, Callable[[int], StructuredOutput | None]] = {
    "free text": lambda number: None,
    "JSON schema, simple": simple_schema,
    "JSON schema, medium": medium_schema,
    "regex": lambda number: StructuredOutput(regex=rf"[A-Z]{{2}}-\d{{4}}-{number}"),
    "choice": lambda number: StructuredOutput(choice=Choices(values=["yes", "no", f"perhaps {number}"])),
    "JSON object": lambda number: StructuredOutput(json_object=True),
}


async def first_token_s(engine: CollectingEngine, wanted: StructuredOutput | None) -> float:
    """Return the seconds until a request's first output."""
    sampling = {} if wanted is None else {"structured_output": wanted}
    began = time.perf_counter()
    answer = engine.submit(engine.random_prompt(PROMPT_TOKENS), max_tokens=1, **sampling)
    await engine.until(lambda: bool(answer.outputs))
    seconds = time.perf_counter() - began
    assert answer.failure is None, answer.failure
    await engine.until(lambda: engine.is_empty)
    return seconds


async def medians_ms(
    engine: CollectingEngine, make: Callable[[int], StructuredOutput | None], rounds: int
) -> tuple[float, float]:
    """Return the medians over constraints that are new and that are not, measured in turn."""
    cold, warm = [], []
    for number in range(rounds):
        cold.append(await first_token_s(engine, make(number)))
        warm.append(await first_token_s(engine, make(number)))
    return statistics.median(cold) * 1e3, statistics.median(warm) * 1e3


async def measure(model: str, rounds: int) -> None:
    async with CollectingEngine(VllmEngine(WorkerSettings(model=model))) as engine:
        await medians_ms(engine, lambda number: simple_schema(-number - 1), 3)
        print(f"{'constraint':22}{'cold ms':>10}{'warm ms':>10}")
        for name, make in KINDS.items():
            cold, warm = await medians_ms(engine, make, rounds)
            print(f"{name:22}{cold:10.1f}{warm:10.1f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="", help="a model's folder; the demo model where left out")
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.model or str(processes.demo_model()), arguments.rounds))
