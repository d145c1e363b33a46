"""What a client process does: ``python -m tests.bench.client_process PIPE``, started by ``clients``."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection

import uvloop

from tests.bench.load import Caller, run_load


def main() -> None:
    """Make the caller that the parent names, then run loads until the parent closes the pipe."""
    pipe = Connection(int(sys.argv[1]))
    name, arguments = pipe.recv()
    module, _, kind = name.partition(":")
    with suppress(EOFError):  # The parent needs it no longer.
        uvloop.run(obey(pipe, partial(getattr(import_module(module), kind), **arguments)))


async def obey(pipe: Connection, make_caller: Callable[[], Caller]) -> None:
    """Make the caller on this loop, say that it is ready, then answer each load with what was seen."""
    try:
        async with make_caller() as caller:
            pipe.send("ready")
            while True:
                pipe.send(await run_load(caller, await asyncio.to_thread(pipe.recv)))
    except EOFError:
        raise
    except Exception as error:
        pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))
        raise


if __name__ == "__main__":
    main()
