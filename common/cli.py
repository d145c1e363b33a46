"""The command sluice: ask a scheduler for text, and bring a whole deployment up on one machine."""

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import grpc

from common.client import Client, ask
from common.launch import add_up_arguments, up
from common.rich_status import describe

ADDRESS = "127.0.0.1:50051"


def main() -> None:
    """Run one subcommand."""
    parser = argparse.ArgumentParser(prog="sluice", description="Talk to Sluice.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    generate_parser = commands.add_parser("generate", help="stream an answer to a prompt")
    _add_generate_arguments(generate_parser)
    generate_parser.set_defaults(run=generate)
    up_parser = commands.add_parser("up", help="start scheduler and workers on this machine")
    add_up_arguments(up_parser)
    up_parser.set_defaults(run=up)
    options = parser.parse_args()
    run: Callable[[argparse.Namespace], Coroutine[Any, Any, int]] = options.run
    try:
        sys.exit(asyncio.run(run(options)))
    except KeyboardInterrupt:
        sys.exit(130)


async def generate(options: argparse.Namespace) -> int:
    """Stream one answer to standard output; the receipt goes to standard error."""
    request = _request(options)
    try:
        async with Client(options.address) as client:
            async for response in client.stream(request, timeout_s=options.timeout):
                match response.WhichOneof("event"):
                    case "chunk" if response.chunk.index == 0:
                        sys.stdout.write(response.chunk.text)
                        sys.stdout.flush()
                    case "accepted" | "queue_update" | "finished" if options.receipt:
                        sys.stderr.write(f"{response}\n")
    except grpc.aio.AioRpcError as error:
        sys.stderr.write(f"\nsluice: {describe(error)}\n")
        return 1
    sys.stdout.write("\n")
    return 0


def _request(options: argparse.Namespace) -> Any:
    names = ("temperature", "top_p", "top_k", "max_tokens", "seed", "stop")
    sampling = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.json_schema is not None:
        sampling["structured_output"] = {"json_schema": options.json_schema}
    text = sys.stdin.read() if options.prompt == "-" else options.prompt
    system = [{"role": "system", "content": options.system}] if options.system else []
    return ask(
        text if options.raw else None,
        messages=[*system, {"role": "user", "content": text}],
        sampling=sampling,
        priority=options.priority,
        time_budget_s=options.time_budget,
    )


def _add_generate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help="what to ask; - reads it from standard input")
    parser.add_argument("--address", default=ADDRESS, help=f"the scheduler's HOST:PORT (default: {ADDRESS})")
    parser.add_argument("--raw", action="store_true", help="no chat template: the model continues the prompt")
    parser.add_argument("--system", help="a system message before the prompt")
    parser.add_argument("--priority", choices=["high", "normal", "low"], help="default: by the prompt's length")
    parser.add_argument("--timeout", type=float, metavar="S", help="the call's deadline in seconds")
    parser.add_argument("--time-budget", type=float, metavar="S", help="take what there is after so many seconds")
    parser.add_argument("--max-tokens", type=int, help="most new tokens")
    parser.add_argument("--temperature", type=float, help="randomness; 0: greedy")
    parser.add_argument("--top-p", type=float, help="probability mass considered")
    parser.add_argument("--top-k", type=int, help="likeliest tokens considered; 0: all")
    parser.add_argument("--seed", type=int, help="fixes the random numbers")
    parser.add_argument("--stop", action="append", help="ends the answer where it occurs; may be repeated")
    parser.add_argument("--json-schema", help="the answer must match this JSON schema")
    parser.add_argument("--receipt", action="store_true", help="print terms and receipt to standard error")
