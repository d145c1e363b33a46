"""grpcurl's command lines, run by its twin `buf curl`, which is a Python package like any other."""

import argparse
import asyncio
import json
import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple

BUF = Path(sys.executable).with_name("buf")
GRPC = ["curl", "--protocol", "grpc", "--http2-prior-knowledge"]
RUN_S = 60.0
REFLECTION = "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


class Ran(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def messages(self) -> list[Any]:
        """The JSON values that were printed."""
        decoder, rest, found = json.JSONDecoder(), self.out.strip(), []
        while rest:
            value, end = decoder.raw_decode(rest)
            found.append(value)
            rest = rest[end:].strip()
        return found


async def run(*command: str | Path, stdin: bytes | None = None, **environment: Any) -> Ran:
    """Run a command to its end; TimeoutError when it does not come."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        **environment,
    )
    try:
        async with asyncio.timeout(RUN_S):
            out, err = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
    return Ran(process.returncode or 0, out.decode(), err.decode())


async def call(address: str, method: str, message: dict[str, Any] | None = None) -> Ran:
    """Call a method through reflection."""
    return await run(BUF, *GRPC, "--data", json.dumps(message or {}), f"http://{address}/{method}")


async def run_grpcurl(line: str) -> Ran:
    """Run a grpcurl command line."""
    return await run(BUF, *translated(line))


def translated(line: str) -> list[str]:
    """Return the arguments with which buf does what the grpcurl command line does."""
    program, *arguments = shlex.split(line)
    if program != "grpcurl":
        raise ValueError(f"this is no grpcurl line: {line}")
    parser = argparse.ArgumentParser(prog="grpcurl", exit_on_error=False)
    parser.add_argument("-plaintext", action="store_true", required=True)
    parser.add_argument("-d", dest="data", default="{}")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("-max-time", dest="max_time_s")
    parser.add_argument("address")
    parser.add_argument("verb")
    parser.add_argument("symbol", nargs="?")
    given = parser.parse_args(arguments)
    base = f"http://{given.address}"
    match given.verb:
        case "list" if given.symbol:
            return [*GRPC, "--list-methods", base]
        case "list":
            return [*GRPC, "--list-services", base]
        case "describe":
            return [*GRPC, "--data", json.dumps({"fileContainingSymbol": given.symbol}), f"{base}/{REFLECTION}"]
    limit = ["--timeout", f"{given.max_time_s}s"] if given.max_time_s else []
    headers = [part for header in given.headers for part in ("--header", header)]
    return [*GRPC, *limit, *headers, "--data", given.data, f"{base}/{given.verb}"]
