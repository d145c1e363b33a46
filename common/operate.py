"""The operators' commands: sluice requests, workers, cancel, drain, limits and tenants."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

import grpc
from google.protobuf import json_format

from common.admin_client import AdminClient, request_filter
from common.connection import add_admin_connection_arguments, client_of
from common.request_arguments import why_it_failed
from common.table import table

NO_LIMIT: Final = "none"

Ask = Callable[[AdminClient, argparse.Namespace], Awaitable[Any]]
Tell = Callable[[Any], Iterator[str]]


class UsageError(Exception):
    """Options that make no sense together; the message says which would."""


def _run(ask: Ask, tell: Tell) -> Callable[[argparse.Namespace], int]:
    """Return the function of a command: ask, print as the options say, return the exit status."""

    async def answer(options: argparse.Namespace) -> Any:
        async with client_of(options) as client:
            return await ask(AdminClient(client), options)

    def run(options: argparse.Namespace) -> int:
        try:
            message = asyncio.run(answer(options))
        except grpc.aio.AioRpcError as error:
            sys.stderr.write(f"sluice: {why_it_failed(error, options.address)}\n")
            return 1
        except UsageError as error:
            sys.stderr.write(f"sluice: {error}\n")
            return 2
        if options.format == "json":
            text = json_format.MessageToJson(
                message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
        else:
            text = "\n".join(tell(message))
        sys.stdout.write(text + "\n")
        return 0

    return run


def _filter_of(options: argparse.Namespace) -> Any:
    return request_filter(options.ids, tenant=options.tenant, service_class=options.service_class, state=options.state)


def _tell_requests(message: Any) -> Iterator[str]:
    rows = [
        (
            each.request_id,
            each.tenant or "-",
            each.service_class,
            _word(each, "state"),
            each.worker or "-",
            str(each.queue_position) if each.HasField("queue_position") else "-",
            _seconds(each.estimated_wait) if each.HasField("estimated_wait") else "-",
            _seconds(each.age),
            _seconds(each.time_left),
            f"{each.output_tokens}/{each.max_tokens * each.sequences}",
        )
        for each in message.requests
    ]
    yield from table(("REQUEST", "TENANT", "CLASS", "STATE", "WORKER", "BEFORE", "WAIT", "AGE", "LEFT", "TOKENS"), rows)
    if message.total > len(rows):
        yield f"{len(rows)} of {message.total}; more with --limit"


def _tell_workers(message: Any) -> Iterator[str]:
    yield from _worker_table(message.workers)


def _tell_worker(message: Any) -> Iterator[str]:
    yield from _worker_table([message.worker])


def _worker_table(workers: Sequence[Any]) -> Iterator[str]:
    rows = [
        (
            each.worker or "-",
            each.address,
            each.engine or "-",
            _word(each, "state"),
            _word(each, "circuit"),
            str(each.requests),
            f"{each.sequences}/{each.max_sequences}",
            f"{each.kv_tokens}/{each.kv_cache_tokens}",
            f"{1e3 * _float(each.step_times.base):.1f} ms",
        )
        for each in workers
    ]
    return table(
        ("WORKER", "ADDRESS", "ENGINE", "STATE", "CIRCUIT", "REQUESTS", "SEQUENCES", "KV TOKENS", "STEP"), rows
    )


def _tell_cancelled(message: Any) -> Iterator[str]:
    yield f"{message.cancelled} cancelled"


def _add_connection(parser: argparse.ArgumentParser) -> None:
    add_admin_connection_arguments(parser)
    parser.add_argument("--format", choices=["text", "json"], default="text", help="default: text")


def _add_filter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help="ids of requests")
    parser.add_argument("--tenant", help="those of this tenant; empty: of nobody in particular")
    parser.add_argument("--service-class", metavar="NAME", help="those of this service class")
    parser.add_argument("--state", choices=["waiting", "running"], help="those that wait, or those that run")
    _add_connection(parser)


def _add_requests(parser: argparse.ArgumentParser) -> None:
    _add_filter(parser)
    parser.add_argument("--limit", type=_count, default=0, metavar="N", help="most to list (default: 1000)")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    for flag, what in (("--max-queued-requests", "requests that may wait"), ("--max-tokens-cap", "most new tokens")):
        parser.add_argument(flag, type=_count, metavar="N", help=f"{what}, from now on")
    _add_connection(parser)


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must be in [0, {2**32 - 1}], not {text}")
    return value


async def _limits(client: AdminClient, options: argparse.Namespace) -> Any:
    return await client.limits(max_queued_requests=options.max_queued_requests, max_tokens_cap=options.max_tokens_cap)


def _tell_limits(message: Any) -> Iterator[str]:
    yield f"max_queued_requests  {message.limits.max_queued_requests}"
    yield f"max_tokens_cap       {message.limits.max_tokens_cap}"


def _add_tenants(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("tenant", nargs="?", help="whose limits to change; empty: of each that has none of its own")
    add("--tokens-per-minute", type=_limit, metavar="N", help="prompt and output tokens, from now on; or none")
    add("--max-requests", type=_limit, metavar="N", help="requests that may wait and run at once, from now on; or none")
    add("--weight", type=float, metavar="W", help="share of the engines under load, relative to 1 for others")
    _add_connection(parser)


def _limit(text: str) -> int | str:
    return text if text == NO_LIMIT else _count(text)


async def _tenants(client: AdminClient, options: argparse.Namespace) -> Any:
    given = {name: getattr(options, name) for name in ("tokens_per_minute", "max_requests", "weight")}
    named = {name: None if value == NO_LIMIT else value for name, value in given.items() if value is not None}
    if named and options.tenant is None:
        raise UsageError("name the tenant whose limits to change; '' is each that has none of its own")
    if named:
        await client.change_tenant(options.tenant, **named)
    return await client.tenants()


def _tell_tenants(message: Any) -> Iterator[str]:
    rows = [
        (
            each.tenant or "(others)",
            str(each.tokens_per_minute) if each.HasField("tokens_per_minute") else "-",
            str(each.max_requests) if each.HasField("max_requests") else "-",
            f"{each.weight:g}" if each.HasField("weight") else "1",
        )
        for each in message.tenants
    ]
    yield from table(("TENANT", "TOKENS PER MINUTE", "REQUESTS AT ONCE", "WEIGHT"), rows)


def _add_drain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("worker", help="the worker's id")
    parser.add_argument("--undo", action="store_true", help="give it requests again")
    _add_connection(parser)


async def _drain(client: AdminClient, options: argparse.Namespace) -> Any:
    return await (client.undrain if options.undo else client.drain)(options.worker)


def _word(message: Any, field: str) -> str:
    """Name an enum's value as people say it: WORKER_STATE_READY is ready."""
    name: str = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number[getattr(message, field)].name
    return name.rpartition("_STATE_")[2].lower().replace("_", "-")


def _float(duration: Any) -> float:
    return float(duration.seconds + duration.nanos / 1e9)


def _seconds(duration: Any) -> str:
    return f"{_float(duration):.1f} s"


COMMANDS: Final = [
    (
        "requests",
        _run(lambda client, options: client.requests(_filter_of(options), options.limit), _tell_requests),
        _add_requests,
        "list the requests that wait or run",
    ),
    ("workers", _run(lambda client, _: client.workers(), _tell_workers), _add_connection, "list the workers"),
    (
        "cancel",
        _run(lambda client, options: client.cancel(_filter_of(options)), _tell_cancelled),
        _add_filter,
        "end requests, by id, tenant, class or state",
    ),
    ("limits", _run(_limits, _tell_limits), _add_limits, "show limits, and change those that are given"),
    ("tenants", _run(_tenants, _tell_tenants), _add_tenants, "show tenants' limits, and change those of one"),
    ("drain", _run(_drain, _tell_worker), _add_drain, "give a worker nothing new; what runs there goes on"),
]
"""Name, function, arguments and summary of each."""
