"""The command sluice token: a token in a file, and the digest by which others know it."""

import argparse
import os
import sys
from pathlib import Path

from common.credentials import digest_of, make_token, read_token
from common.tls import CredentialsError

SUMMARY = "make a token, and print the SHA-256 that the settings need"
OWNER_ONLY = 0o600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    parser.add_argument("file", metavar="FILE", help="where the token is put; one that is there already stays")


def run(options: argparse.Namespace) -> int:
    """Make the file where it is missing, and print its token's digest; return the exit status."""
    try:
        if not Path(options.file).exists():
            _write(options.file, make_token())
    except OSError as error:
        raise CredentialsError(f"cannot write {options.file}: {error.strerror}") from None
    sys.stdout.write(f"{digest_of(read_token(options.file))}\n")
    return 0


def _write(path: str, token: str) -> None:
    """Write a new file that nobody else may read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY), "w") as file:
        file.write(f"{token}\n")
