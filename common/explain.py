"""The command sluice explain: what would become of a request, without running it."""

import argparse
import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import json_format

from common.connection import client_of
from common.request_arguments import add_request_arguments, read_request, why_it_failed

TARGETS = {"time_to_first_token": "first token", "time_per_output_token": "each token", "end_to_end": "all"}
SUMMARY = "tell what would become of a request, without running it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    add_request_arguments(parser)
    parser.add_argument("--format", choices=["text", "json"], default="text", help="default: text")


def run(options: argparse.Namespace) -> int:
    """Ask and tell; return the exit status: 0 where the request would be served."""
    try:
        outlook = asyncio.run(_ask(options))
    except ValueError as error:
        sys.stderr.write(f"sluice: cannot send this: {error}\n")
        return 1
    except grpc.aio.AioRpcError as error:
        sys.stderr.write(f"sluice: {why_it_failed(error, options.address)}\n")
        return 1
    if options.format == "json":
        sys.stdout.write(json_format.MessageToJson(outlook, preserving_proto_field_name=True) + "\n")
    else:
        sys.stdout.write("\n".join(_tell(outlook)) + "\n")
    return 1 if outlook.HasField("refusal") else 0


async def _ask(options: argparse.Namespace) -> Any:
    async with client_of(options, tenant=options.tenant) as client:
        return await client.explain(read_request(options), timeout_s=options.timeout)


def _tell(outlook: Any) -> Iterator[str]:
    terms = outlook.terms
    yield _verdict(outlook)
    yield f"class        {terms.service_class} ({_rule(terms, 'class_reason')}); {_targets(terms)}"
    if terms.tenant:
        yield f"tenant       {terms.tenant}"
    yield f"prompt       {terms.prompt_tokens} tokens"
    yield (
        f"output       {outlook.expected_output_tokens} tokens expected, "
        f"{terms.max_tokens} at most ({_rule(terms, 'max_tokens_rule')})"
    )
    yield f"deadline     in {_seconds(terms.time_left)} ({_rule(terms, 'deadline_rule')})"
    if outlook.HasField("estimated_total"):
        first, last = _seconds(outlook.estimated_time_to_first_token), _seconds(outlook.estimated_total)
        yield f"estimate     first token in {first}, last in {last}"
    yield f"queue        {outlook.queued_requests} waiting, {outlook.workers} worker(s)"


def _verdict(outlook: Any) -> str:
    if outlook.HasField("refusal"):
        refusal = outlook.refusal
        again = f"; ask again in {_seconds(refusal.retry_after)}" if refusal.HasField("retry_after") else ""
        return f"It would be refused: {refusal.reason}: {refusal.message}{again}."
    if outlook.worker:
        return f"It would start at once, on {outlook.worker}."
    terms = outlook.terms
    wait = f", about {_seconds(terms.estimated_wait)}" if terms.HasField("estimated_wait") else ""
    return f"It would wait: {terms.queue_position} before it{wait}."


def _targets(terms: Any) -> str:
    names = {"time_to_first_token": "first token", "time_per_output_token": "each token", "end_to_end": "all"}
    targets = [
        f"{name} {_seconds(value)}" for field, value in terms.targets.ListFields() if (name := names[field.name])
    ]
    promise = "promised" if terms.promised else "not promised"
    return f"{promise}: {', '.join(targets)}" if targets else "no targets"


def _rule(terms: Any, field: str) -> str:
    """Name a rule as people say it: CLASS_REASON_PROMPT_LENGTH is prompt length."""
    descriptor = terms.DESCRIPTOR.fields_by_name[field].enum_type
    name: str = descriptor.values_by_number[getattr(terms, field)].name
    return name.removeprefix(f"{field.upper()}_").lower().replace("_", " ")


def _seconds(duration: Any) -> str:
    return f"{duration.seconds + duration.nanos / 1e9:.3g} s"
