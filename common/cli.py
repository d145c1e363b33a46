"""The command sluice: ask a scheduler for text, and bring a whole deployment up on one machine.

Other packages add commands of their own, so that this one need not know them: an entry point in the group
``sluice.commands``, named like the command, is a module with ``SUMMARY``, ``add_arguments(parser)`` and
``run(options)``, which returns the exit status.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import entry_points, version
from typing import Any, Final

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message

from common import explain, operate, token
from common.connection import client_of
from common.launch import add_up_arguments, up
from common.request_arguments import add_request_arguments, read_request, why_it_failed
from common.tls import CredentialsError

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
    except CredentialsError as error:
        sys.exit(f"sluice: {error}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader has had enough; Python must not try to flush once more on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(OUTPUT_CLOSED)


def generate(options: argparse.Namespace) -> int:
    """Stream one answer to standard output; return the exit status."""
    try:
        request = read_request(options)
    except ValueError as error:
        sys.stderr.write(f"sluice: cannot send this: {error}\n")
        return 1
    return asyncio.run(_generate(request, options))


async def _generate(request: Any, options: argparse.Namespace) -> int:
    screen = _Screen()
    try:
        async with client_of(options, tenant=options.tenant) as client:
            async for response in client.stream(request, timeout_s=options.timeout):
                if response.HasField("chunk"):
                    screen.write(response.chunk)
                elif options.receipt:
                    screen.note(response)
    except grpc.aio.AioRpcError as error:
        screen.end_line()
        sys.stderr.write(f"sluice: {why_it_failed(error, options.address)}\n")
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


def parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Make the parser of a command line; its ``run`` is the subcommand's function."""
    top = argparse.ArgumentParser(prog="sluice", description="Talk to Sluice.")
    top.add_argument("--version", action="version", version=f"sluice {version('sluice')}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    own: list[tuple[str, Run, AddArguments, str]] = [
        ("generate", generate, _add_generate_arguments, "stream an answer to a prompt"),
        ("explain", explain.run, explain.add_arguments, explain.SUMMARY),
        ("token", token.run, token.add_arguments, token.SUMMARY),
        *operate.COMMANDS,
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
    add_request_arguments(parser)
    parser.add_argument("--receipt", action="store_true", help="print terms and receipt to standard error")
