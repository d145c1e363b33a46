"""Addresses: what is one, and who can reach it."""

import pytest

from common.address import check_exposure, is_loopback, parse_address


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("127.0.0.1:50051", ("127.0.0.1", 50051)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("[::]:1", ("::", 1)),
        ("gpu-box.example.org:50061", ("gpu-box.example.org", 50061)),
    ],
)
def test_host_and_port_are_split(text: str, parsed: tuple[str, int]) -> None:
    assert parse_address(text) == parsed


@pytest.mark.parametrize(
    "text",
    ["", ":1", "host", "host:", "host:x", "host:65536", "host:-1", "::1:1", "[host]:1", "[]:1", "a:1,b:2", "a:²"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|port"):
        parse_address(text)


def test_loopback_is_what_only_this_machine_reaches() -> None:
    assert all(is_loopback(address) for address in ("127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"))
    assert not any(is_loopback(address) for address in ("0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1"))


def test_other_machines_are_not_served_in_the_clear_unasked() -> None:
    with pytest.raises(ValueError, match=r"0\.0\.0\.0:50051.*--insecure-listen"):
        check_exposure("0.0.0.0:50051", encrypted=False, insecure_listen=False)


@pytest.mark.parametrize(
    ("address", "encrypted", "insecure_listen"),
    [("127.0.0.1:0", False, False), ("0.0.0.0:0", True, False), ("0.0.0.0:0", False, True)],
)
def test_loopback_or_encryption_or_the_flag_is_enough(address: str, encrypted: bool, insecure_listen: bool) -> None:
    check_exposure(address, encrypted=encrypted, insecure_listen=insecure_listen)
