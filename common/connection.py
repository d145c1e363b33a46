"""The connection to a scheduler that a command line describes, for the commands that talk to one."""

import argparse
import os
from typing import Final

from common.client import Client
from common.credentials import read_token
from common.launch import ADMIN_PORT, SCHEDULER_ADDRESS
from common.tls import ClientTls

ADDRESS_VARIABLE: Final = "SLUICE_ADDRESS"
ADMIN_ADDRESS_VARIABLE: Final = "SLUICE_ADMIN_ADDRESS"
CA_VARIABLE: Final = "SLUICE_TLS_CA"
CERTIFICATE_VARIABLE: Final = "SLUICE_CERTIFICATE"
KEY_VARIABLE: Final = "SLUICE_KEY"
TOKEN_VARIABLE: Final = "SLUICE_TOKEN_FILE"


def add_connection_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options that say where the scheduler is, and who asks."""
    _add_arguments(parser, ADDRESS_VARIABLE, SCHEDULER_ADDRESS)


def add_admin_connection_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options that say where the scheduler's admin API is, and who asks."""
    _add_arguments(parser, ADMIN_ADDRESS_VARIABLE, f"127.0.0.1:{ADMIN_PORT}")


def _add_arguments(parser: argparse.ArgumentParser, address_variable: str, usual: str) -> None:
    address = os.environ.get(address_variable) or usual
    where = f"the scheduler's HOST:PORT (default: ${address_variable}, else {usual})"
    parser.add_argument("--address", default=address, help=where)
    for flag, variable, what in (
        ("--tls-ca", CA_VARIABLE, "PEM file with the scheduler's CA; without it there is no TLS"),
        ("--certificate", CERTIFICATE_VARIABLE, "PEM file with one's own certificate"),
        ("--key", KEY_VARIABLE, "PEM file with its private key"),
        ("--token-file", TOKEN_VARIABLE, "file with one's token"),
    ):
        parser.add_argument(
            flag, default=os.environ.get(variable, ""), metavar="FILE", help=f"{what} (default: ${variable})"
        )


def client_of(options: argparse.Namespace, *, tenant: str = "") -> Client:
    """Make the client that the options describe, for a tenant; CredentialsError where a file will not do."""
    tls = ClientTls(options.tls_ca, options.certificate, options.key)
    token = read_token(options.token_file) if options.token_file else ""
    return Client(options.address, tenant=tenant, token=token, tls=tls)
