"""The command sluice: ask a scheduler for text, and bring a whole deployment up on one machine.

Other packages add commands of their own, so that this one need not know them: an entry point in the group
``sluice.commands``, named like the command, is a module with ``SUMMARY``, ``add_arguments(parser)`` and
``run(options)``, which returns the exit status.
"""

import argparse
import asyncio
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import entry_points, version
from typing import Any, Final

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message

from common.client import Client, ask
from common.launch import SCHEDULER_ADDRESS, add_up_arguments, up
from common.rich_status import describe, read_details

ADDRESS_VARIABLE: Final = "SLUICE_ADDRESS"
COMMANDS: Final = "sluice.commands"
INTERRUPTED, OUTPUT_CLOSED = 130, 141  # 128 and the signal, as shells count

Run = Callable[[argparse.Namespace], int]
AddArguments = Callable[[argparse.ArgumentParser], None]


def main() -> None:
    """Run one subcommand."""
    options = parser(sys.argv[1:]).parse_args()
    run: Run = options.run
    try:
        sys.exit(run(options))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader has had enough; Python must not try to flush once more on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(OUTPUT_CLOSED)


def generate(options: argparse.Namespace) -> int:
    """Stream one answer to standard output; return the exit status."""
    try:
        request = _request(options)
    except ValueError as error:
        sys.stderr.write(f"sluice: cannot send this: {error}\n")
        return 1
    return asyncio.run(_generate(request, options))


async def _generate(request: Any, options: argparse.Namespace) -> int:
    screen = _Screen()
    try:
        async with Client(options.address) as client:
            async for response in client.stream(request, timeout_s=options.timeout):
                if response.HasField("chunk"):
                    screen.write(response.chunk)
                elif options.receipt:
                    screen.note(response)
    except grpc.aio.AioRpcError as error:
        screen.end_line()
        sys.stderr.write(f"sluice: {_explain(error, options.address)}\n")
        return 1
    screen.end_line()
    return 0


class _Screen:
    """The answer on standard output, as it comes, and notes about it on standard error."""

    def __init__(self) -> None:
        self._in_line = False

    def write(self, chunk: Any) -> None:
        """Show new text of the first sequence."""
        if chunk.index == 0 and chunk.text:
            sys.stdout.write(chunk.text)
            sys.stdout.flush()
            self._in_line = not chunk.text.endswith("\n")

    def note(self, event: Message) -> None:
        """Show another event of the stream as a line of JSON."""
        self.end_line()
        sys.stderr.write(json_format.MessageToJson(event, indent=None, preserving_proto_field_name=True) + "\n")

    def end_line(self) -> None:
        """Leave the cursor at the beginning of a line."""
        if self._in_line:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._in_line = False


def _explain(error: grpc.aio.AioRpcError, address: str) -> str:
    """Put an error into one line."""
    text = describe(error)
    if error.code() is grpc.StatusCode.UNAVAILABLE and not read_details(error):
        text = f"cannot reach the scheduler at {address}: {(error.details() or '').rpartition(': ')[2]}"
    return " ".join(text.split())


def _request(options: argparse.Namespace) -> Any:
    """Build the request; ValueError where a text is not UTF-8."""
    names = ("temperature", "top_p", "top_k", "max_tokens", "seed", "stop")
    sampling = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.json_schema is not None:
        sampling["structured_output"] = {"json_schema": options.json_schema}
    text = sys.stdin.buffer.read().decode() if options.prompt == "-" else options.prompt
    system = [{"role": "system", "content": options.system}] if options.system else []
    return ask(
        text if options.raw else None,
        messages=[*system, {"role": "user", "content": text}],
        sampling=sampling,
        priority=options.priority,
        time_budget_s=options.time_budget,
    )


def parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Make the parser of a command line; its ``run`` is the subcommand's function."""
    top = argparse.ArgumentParser(prog="sluice", description="Talk to Sluice.")
    top.add_argument("--version", action="version", version=f"sluice {version('sluice')}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    own: list[tuple[str, Run, AddArguments, str]] = [
        ("generate", generate, _add_generate_arguments, "stream an answer to a prompt"),
        ("up", up, add_up_arguments, "start scheduler and workers on this machine"),
    ]
    called = arguments[0] if arguments else ""
    added = () if called in (name for name, *_ in own) else _added_commands(called)
    for name, run, add_arguments, summary in (*own, *added):
        command = commands.add_parser(name, help=summary, description=f"{summary.capitalize()}.")
        add_arguments(command)
        command.set_defaults(run=run)
    return top


def _added_commands(called: str) -> Iterator[tuple[str, Run, AddArguments, str]]:
    """Load the command that is called; all of them where it is none of them, to be listed."""
    points = entry_points(group=COMMANDS)
    for point in points.select(name=called) or points:
        module = point.load()
        yield point.name, module.run, module.add_arguments, module.SUMMARY


def _add_generate_arguments(parser: argparse.ArgumentParser) -> None:
    address = os.environ.get(ADDRESS_VARIABLE) or SCHEDULER_ADDRESS
    where = f"the scheduler's HOST:PORT (default: ${ADDRESS_VARIABLE}, else {SCHEDULER_ADDRESS})"
    parser.add_argument("prompt", help="what to ask; - reads it from standard input")
    parser.add_argument("--address", default=address, help=where)
    parser.add_argument("--raw", action="store_true", help="no chat template: the model continues the prompt")
    parser.add_argument("--system", help="a system message before the prompt")
    parser.add_argument("--priority", choices=["high", "normal", "low"], help="default: by the prompt's length")
    parser.add_argument("--timeout", type=_seconds, metavar="S", help="the call's deadline in seconds")
    parser.add_argument("--time-budget", type=_seconds, metavar="S", help="take what there is after so many seconds")
    parser.add_argument("--max-tokens", type=_count, metavar="N", help="most new tokens")
    parser.add_argument("--temperature", type=float, metavar="X", help="randomness; 0: greedy")
    parser.add_argument("--top-p", type=float, metavar="X", help="probability mass considered")
    parser.add_argument("--top-k", type=_count, metavar="N", help="likeliest tokens considered; 0: all")
    parser.add_argument("--seed", type=_seed, metavar="N", help="fixes the random numbers")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="ends the answer where it occurs; repeat it")
    parser.add_argument("--json-schema", metavar="JSON", help="the answer must match this JSON schema")
    parser.add_argument("--receipt", action="store_true", help="print terms and receipt to standard error")


def _seconds(text: str) -> float:
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def _count(text: str) -> int:
    return _integer(text, 0, 2**32 - 1)


def _seed(text: str) -> int:
    return _integer(text, -(2**63), 2**63 - 1)


def _integer(text: str, low: int, high: int) -> int:
    """Read a number that fits into its field; whether it makes sense is the scheduler's to say."""
    value = int(text)
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"must be in [{low}, {high}], not {text}")
    return value
