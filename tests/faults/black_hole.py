"""A network on the way to a server that stops carrying anything, while every connection stands."""

import asyncio
from contextlib import suppress
from typing import Self


class BlackHole:
    """Carries connections to a port of this machine; between ``swallow`` and ``heal`` nothing gets through.

    Attributes:
        port: The port that it listens on.

    """

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self._target_port = target_port
        self._open = _opened()
        self._pumps: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()

    def swallow(self) -> None:
        """Carry nothing from now on."""
        self._open.clear()

    def heal(self) -> None:
        """Carry what was held up, and what comes."""
        self._open.set()

    def replace(self) -> None:
        """Carry connections that are new; nothing more is heard of the others, not even that they have ended."""
        self._open = _opened()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gate = self._open
        there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        for source, target in ((reader, back), (there, writer)):
            pump = asyncio.create_task(_carry(source, target, gate))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)


async def _carry(source: asyncio.StreamReader, target: asyncio.StreamWriter, gate: asyncio.Event) -> None:
    with suppress(ConnectionError):
        while data := await source.read(1 << 16):
            await gate.wait()
            target.write(data)
            await target.drain()
    await gate.wait()
    target.close()


def _opened() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate
