"""Where settings come from: the command line, the environment and a TOML file.

Each source becomes a flat mapping from a setting's dotted name to what was given, so that putting one over the other
is a merge of dictionaries, and an error can say where a value came from.
"""

import argparse
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from pydantic_core import PydanticUndefined

from common.setting_field import SettingField

FILE_VARIABLE = "CONFIG"  # after the process's prefix

# Kubernetes gives every container such variables, with the prefix of a service that is called like the process.
_SERVICE_LINK = re.compile(r"SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)?")


class SettingsError(Exception):
    """Settings that will not do; the message has one line for each fault, naming setting, bound, value and origin."""


class Given(NamedTuple):
    """A value as a source has it, and what to call the place where it was found."""

    value: object
    origin: str


def make_parser(prog: str, summary: str, fields: Sequence[SettingField], prefix: str) -> argparse.ArgumentParser:
    """Make the parser of a process's command line; its ``error`` prints the message alone and exits with 2."""
    parser = _Parser(
        prog=prog,
        usage="%(prog)s [--SETTING VALUE ...]",
        description=summary,
        epilog="A setting can also come from the environment (--log.level from "
        f"{prefix}LOG__LEVEL; lists with commas) or from the file (level, in the table [log]). "
        "The command line wins, then the environment, then the file.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--config", metavar="FILE", help=f"TOML file with settings. (default: ${prefix}{FILE_VARIABLE})"
    )
    groups: dict[str, argparse._ActionsContainer] = {"": parser}
    for field in fields:
        if field.section not in groups:
            groups[field.section] = parser.add_argument_group(field.section, field.section_doc)
        options = field.argparse_options()
        groups[field.section].add_argument(field.flag, dest=field.name, help=field.help, **options)
    return parser


def from_command_line(flags: Mapping[str, object], fields: Sequence[SettingField]) -> dict[str, Given]:
    """Take the settings out of what the parser found."""
    return {field.name: Given(flags[field.name], field.flag) for field in fields if field.name in flags}


def from_environment(environment: Mapping[str, str], fields: Sequence[SettingField], prefix: str) -> dict[str, Given]:
    """Take the settings out of the environment.

    Raises:
        SettingsError: A variable has the prefix and names no setting.

    """
    by_variable = {field.variable(prefix): field for field in fields}
    given: dict[str, Given] = {}
    for variable, text in environment.items():
        if field := by_variable.get(variable):
            given[field.name] = Given(field.from_text(text), variable)
        elif variable == prefix + FILE_VARIABLE:
            continue
        elif variable.startswith(prefix) and not _SERVICE_LINK.fullmatch(variable.removeprefix(prefix)):
            raise SettingsError(f"{variable}: there is no such setting (from the environment)")
    return given


def from_file(path: str | None, fields: Sequence[SettingField]) -> dict[str, Given]:
    """Read the settings in a TOML file; none without a path.

    Raises:
        SettingsError: The file cannot be read, is not TOML or names something that is no setting.

    """
    if not path:
        return {}
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"{path} is not a TOML file: {error}") from None
    names = {field.name for field in fields}
    given = {name: Given(value, path) for name, value in _flatten(document, names, ())}
    for name in given.keys() - names:
        is_table = any(known.startswith(f"{name}.") for known in names)
        raise SettingsError(f"{name}: {'is a table' if is_table else 'there is no such setting'} (from {path})")
    return given


def nest(fields: Sequence[SettingField], given: Mapping[str, Given]) -> dict[str, Any]:
    """Put what was given over the defaults and fold the dotted names into nested dictionaries."""
    values: dict[str, Any] = {}
    for field in fields:
        value = given[field.name].value if field.name in given else field.default
        if value is not PydanticUndefined:
            table = values
            for key in field.path[:-1]:
                table = table.setdefault(key, {})
            table[field.path[-1]] = value
    return values


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, "".join(f"{self.prog}: {line}\n" for line in message.splitlines()))


def _flatten(table: Mapping[str, Any], names: set[str], path: tuple[str, ...]) -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        name = ".".join((*path, key))
        if isinstance(value, dict) and name not in names:
            yield from _flatten(value, names, (*path, key))
        else:
            yield name, value
