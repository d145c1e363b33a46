"""An address that is taken before there is a server for it."""

import socket
from types import TracebackType
from typing import Self

from common.address import BindError, parse_address


class HeldPort:
    """Listens on an address until left, so that nobody else can; whoever connects meanwhile is answered by nobody.

    Attributes:
        address: The address, with the port that it turned out to be.

    """

    def __init__(self, address: str) -> None:
        """Take ``HOST:PORT``, where port 0 leaves the choice to the system.

        Raises:
            BindError: The address is taken, not this machine's, or no address.

        """
        try:
            host, port = parse_address(address)
        except ValueError as error:
            raise BindError(address, str(error)) from None
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            self._socket.listen()
        except OSError as error:
            self._socket.close()
            raise BindError(address, (error.strerror or str(error)).lower()) from None
        self.address = f"{address.rpartition(':')[0]}:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # a process that was forked meanwhile holds it open
        self._socket.close()
