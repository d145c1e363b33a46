"""Settings: one frozen, typed object from the command line, the environment, a TOML file and the defaults.

The earlier of these wins, setting by setting. A setting has one dotted name, ``sampling.temperature``: the flag
``--sampling.temperature``, the variable ``PREFIX_SAMPLING__TEMPERATURE``, the key ``temperature`` of the table
``[sampling]``. A list is given on the command line by repeating its flag and in the environment with commas.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from common.setting_field import SettingField, setting_fields
from common.setting_sources import (
    FILE_VARIABLE,
    Given,
    SettingsError,
    from_command_line,
    from_environment,
    from_file,
    make_parser,
    nest,
)

_SHOWN_CHARACTERS = 200


class SettingsSection(BaseModel):
    """Settings that belong together: a table of the file, a group of flags."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ServerSettings(SettingsSection):
    """The gRPC server."""

    max_message_bytes: int = Field(4 << 20, ge=1024, le=1 << 30, description="Size of the largest request in bytes.")
    keepalive_time_s: float = Field(60.0, ge=0.1, description="Seconds of silence after which a client is pinged.")
    keepalive_timeout_s: float = Field(20.0, ge=0.1, description="Seconds that a client has to answer a ping.")
    # Below the interval at which Sluice's own channels ping.
    min_ping_interval_s: float = Field(10.0, ge=0.1, le=15, description="Least seconds between a client's own pings.")
    reflection: bool = Field(True, description="Describe the API to grpcurl and the like.")


class LogSettings(SettingsSection):
    """The log, on standard error."""

    format: Literal["auto", "json", "console"] = Field(
        "auto", description="How a line looks; auto: for people on a terminal, else JSON."
    )
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least level that is logged.")


class Settings(SettingsSection):
    """Base of a process's settings. Constructing one directly takes the arguments and nothing else.

    Attributes:
        environment_prefix: What the names of the process's environment variables begin with.

    """

    environment_prefix: ClassVar[str]

    @classmethod
    def load(cls, argv: Sequence[str] | None = None, *, prog: str) -> Self:
        """Read the settings of this process; ``argv`` defaults to the process's own arguments.

        Raises:
            SystemExit: After ``--help``, with status 0; after an error that was printed, with status 2.

        """
        fields = list(setting_fields(cls))
        summary = (cls.__doc__ or "").partition("\n\n")[0]
        parser = make_parser(prog, summary, fields, cls.environment_prefix)
        flags = vars(parser.parse_args(sys.argv[1:] if argv is None else argv))
        try:
            given = from_file(flags.get("config") or os.environ.get(cls.environment_prefix + FILE_VARIABLE), fields)
            given |= from_environment(os.environ, fields, cls.environment_prefix)
            given |= from_command_line(flags, fields)
            return cls._validate(fields, given)
        except SettingsError as error:
            parser.error(str(error))

    @classmethod
    def _validate(cls, fields: Sequence[SettingField], given: Mapping[str, Given]) -> Self:
        try:
            return cls.model_validate(nest(fields, given))
        except ValidationError as error:
            raise SettingsError(_explain(error.errors(), fields, given)) from None


def _explain(errors: Sequence[ErrorDetails], fields: Sequence[SettingField], given: Mapping[str, Given]) -> str:
    """Say one line for each setting at fault; the members of a union complain one by one about the same value."""
    bounds: dict[str, list[str]] = {}
    ends: dict[str, str] = {}
    for error in errors:
        location = ".".join(map(str, error["loc"]))
        field = next((field for field in fields if f"{location}.".startswith(f"{field.name}.")), None)
        name = field.name if field else location
        bounds.setdefault(name, []).append(_bound(error))
        ends[name] = _end(error, field, given.get(name))
    return "\n".join(f"{name}: {' or '.join(bounds[name])}{ends[name]}".removeprefix(": ") for name in bounds)


def _bound(error: ErrorDetails) -> str:
    if error["type"] == "missing":
        return "is required"
    return re.sub(r"^(Input|Value error,) |, unable to parse.*$", "", error["msg"])


def _end(error: ErrorDetails, field: SettingField | None, given: Given | None) -> str:
    if error["type"] == "missing" and field:
        return f" ({field.flag})"
    if field is None:
        return ""  # a rule over several settings, which names those at fault
    if error["type"] == "secret" or (field and not field.info.repr):
        return f" (from {given.origin})" if given else ""
    origin = f"from {given.origin}" if given else "the default"
    return f", not {str(error['input'])[:_SHOWN_CHARACTERS]!r} ({origin})"
