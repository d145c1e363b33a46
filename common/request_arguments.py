"""The request that a command line describes, for the commands that send one."""

import argparse
import math
import sys
from typing import Any

import grpc

from common.client import ask
from common.connection import add_connection_arguments
from common.rich_status import describe, read_details


def add_request_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options that make a request, and whom it is sent to."""
    parser.add_argument("prompt", help="what to ask; - reads it from standard input")
    add_connection_arguments(parser)
    parser.add_argument("--raw", action="store_true", help="no chat template: the model continues the prompt")
    parser.add_argument("--system", help="a system message before the prompt")
    parser.add_argument("--priority", choices=["high", "normal", "low"], help="default: by the prompt's length")
    parser.add_argument("--service-class", metavar="NAME", help="a service class of the deployment, instead")
    parser.add_argument("--tenant", default="", metavar="NAME", help="for whom it is served")
    parser.add_argument("--timeout", type=_seconds, metavar="S", help="the call's deadline in seconds")
    parser.add_argument("--time-budget", type=_seconds, metavar="S", help="take what there is after so many seconds")
    parser.add_argument("--max-tokens", type=_count, metavar="N", help="most new tokens")
    parser.add_argument("--temperature", type=float, metavar="X", help="randomness; 0: greedy")
    parser.add_argument("--top-p", type=float, metavar="X", help="probability mass considered")
    parser.add_argument("--top-k", type=_count, metavar="N", help="likeliest tokens considered; 0: all")
    parser.add_argument("--seed", type=_seed, metavar="N", help="fixes the random numbers")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="ends the answer where it occurs; repeat it")
    parser.add_argument("--json-schema", metavar="JSON", help="the answer must match this JSON schema")


def read_request(options: argparse.Namespace) -> Any:
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
        service_class=options.service_class,
        time_budget_s=options.time_budget,
    )


def why_it_failed(error: grpc.aio.AioRpcError, address: str) -> str:
    """Put an error into one line."""
    text = describe(error)
    if error.code() is grpc.StatusCode.UNAVAILABLE and not read_details(error):
        text = f"cannot reach the scheduler at {address}: {(error.details() or '').rpartition(': ')[2]}"
    return " ".join(text.split())


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
