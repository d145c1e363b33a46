"""Addresses to listen on: HOST:PORT, with an IPv6 host in brackets."""

import ipaddress
import socket
from typing import Annotated, Any

from pydantic import AfterValidator

_MAX_PORT = 65_535


class BindError(OSError):
    """An address could not be listened on; the message names the address and the reason."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"cannot listen on {address}: {reason}")


def parse_address(text: str) -> tuple[str, int]:
    """Split ``HOST:PORT`` or ``[IPv6]:PORT`` into host, without brackets, and port, 0 to 65535.

    Raises:
        ValueError: The text is not such an address.

    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    if not colon or not bare or bracketed != (":" in bare):
        raise ValueError("should be HOST:PORT or [IPv6]:PORT")
    if not (port.isascii() and port.isdigit() and int(port) <= _MAX_PORT):
        raise ValueError(f"should end in a port, 0 to {_MAX_PORT}")
    return bare, int(port)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach the address, ``HOST:PORT``."""
    host, _ = parse_address(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_exposure(address: str, *, encrypted: bool, insecure_listen: bool) -> None:
    """Refuse to serve other machines in the clear, unless that was asked for.

    Raises:
        ValueError: The address is not loopback, and there is neither TLS nor the setting that says so.

    """
    if not (encrypted or insecure_listen or is_loopback(address)):
        raise ValueError(
            f"listen: other machines can connect to {address}, and all that is said there can be read on the way: "
            "set tls.certificate and tls.key, or say --insecure-listen"
        )


def warn_of_exposure(log: Any, address: str, *, encrypted: bool, authenticated: bool) -> None:
    """Log what operators should know of a listener that other machines reach; nothing of one that they do not."""
    lacking = {
        "others on the way can read and change all that is said: there is no TLS": not encrypted,
        "whoever can connect is served: nobody has to say who it is": not authenticated,
    }
    for exposure, lacks in lacking.items():
        if lacks and not is_loopback(address):
            log.warning("other machines can connect", listen=address, exposure=exposure)


def why_unbindable(address: str) -> str:
    """Find out, by trying, why an address that was refused cannot be listened on."""
    try:
        host, port = parse_address(address)
        for family, kind, protocol, _, target in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(target)
                probe.listen()
    except OSError as error:
        return (error.strerror or str(error)).lower()
    except ValueError as error:
        return str(error)
    return "the address was refused"


def _checked(text: str) -> str:
    parse_address(text)
    return text


Address = Annotated[str, AfterValidator(_checked)]
"""The type of a setting that holds an address to listen on; port 0 lets the system choose."""
