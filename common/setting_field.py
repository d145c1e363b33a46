"""One setting as command line, environment and help text see it."""

import argparse
import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_METAVARS = {bool: "true|false", int: "INT", float: "NUMBER", str: "TEXT", dict: "JSON", types.NoneType: "none"}


@dataclass(frozen=True, slots=True)
class SettingField:
    """A field of a settings model, or of one nested in it.

    Attributes:
        path: The names that lead to it: ``("sampling", "temperature")``.
        default: Its value where nothing is given; ``PydanticUndefined`` where it is required.
        section_doc: What the nested model it belongs to is about; empty at the top.

    """

    path: tuple[str, ...]
    info: FieldInfo
    default: object
    section_doc: str

    @property
    def name(self) -> str:
        """The dotted name: ``sampling.top_p``."""
        return ".".join(self.path)

    @property
    def section(self) -> str:
        """The dotted name of the nested model; empty at the top."""
        return ".".join(self.path[:-1])

    @property
    def flag(self) -> str:
        """The command line's flag: ``--sampling.top-p``."""
        return "--" + self.name.replace("_", "-")

    @property
    def help(self) -> str:
        """Description and default."""
        default = "required" if self.default is PydanticUndefined else f"default: {_shown(self.default)}"
        return f"{self.info.description or ''} ({default})".strip().replace("%", "%%")

    def variable(self, prefix: str) -> str:
        """The environment variable: ``SLUICE_SCHEDULER_SAMPLING__TOP_P``."""
        return prefix + "__".join(self.path).upper()

    def argparse_options(self) -> Mapping[str, Any]:
        """How argparse reads the flag; it leaves checking and converting to the model."""
        kinds = _kinds(self.info.annotation)
        if bool in kinds:
            return {"action": argparse.BooleanOptionalAction}
        options: dict[str, Any] = {"metavar": _metavar(self.info.annotation)}
        return options | ({"action": "append"} if list in kinds else {"type": self.from_text})

    def from_text(self, text: str) -> object:
        """Take a text apart where the model would not: lists at commas, dictionaries as JSON, and ``none``.

        Text that cannot be taken apart is returned as it is, for the model to refuse.
        """
        kinds = _kinds(self.info.annotation)
        if list in kinds:
            return [part.strip() for part in text.split(",") if part.strip()]
        if types.NoneType in kinds and text.lower() == "none":
            return None
        if dict in kinds:
            try:
                return json.loads(text)
            except ValueError:
                return text
        return text


def setting_fields(
    model: type[BaseModel], default: BaseModel | None = None, path: tuple[str, ...] = ()
) -> Iterator[SettingField]:
    """Yield the fields of a settings model, those of its nested models in their place.

    Args:
        model: The settings model.
        default: An instance whose values are the defaults; None: the model's own.
        path: The names that lead to the model.

    """
    section_doc = (model.__doc__ or "").partition("\n\n")[0] if path else ""
    for name, info in model.model_fields.items():
        value = getattr(default, name) if default else info.get_default(call_default_factory=True)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            nested = value if isinstance(value, BaseModel) else None
            yield from setting_fields(info.annotation, nested, (*path, name))
        else:
            yield SettingField((*path, name), info, value, section_doc)


def _kinds(annotation: Any) -> set[Any]:
    """Return the plain types an annotation is made of: ``{list}``, ``{int, NoneType}``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return set().union(*(_kinds(member) for member in get_args(annotation)))
    return {origin or annotation}


def _metavar(annotation: Any) -> str:
    origin, members = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "|".join(str(member) for member in members)
    if origin in (Union, types.UnionType):
        return "|".join(filter(None, map(_metavar, members)))
    if origin in (list, Annotated):
        return _metavar(members[0])
    return _METAVARS.get(origin or annotation, "VALUE")


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "empty"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value) or "empty"
