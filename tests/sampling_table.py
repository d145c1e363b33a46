"""The table of docs/sampling.md, as cases."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from sluice.v1.generation_pb2 import SamplingParams

TABLE = Path(__file__).parent.parent / "docs" / "sampling.md"
ROW = re.compile(r"\| (?P<options>[^|]+) \| `(?P<example>[^|]+)` \| (?P<outcome>[^|]+) \|")


@dataclass(frozen=True, slots=True)
class Case:
    """One row: the options that meet, an example with names for ids, and what becomes of it."""

    options: str
    example: str
    outcome: str

    def sampling(self, **ids: int) -> SamplingParams:
        """Return the example with these ids for their names."""
        values: Any = self.example
        for name, token_id in ids.items():
            values = values.replace(f'"{name.upper()}"', f'"{token_id}"')
        return json_format.ParseDict(json.loads(values), SamplingParams())

    @property
    def refused_field(self) -> str | None:
        """The field that a refusal names; None where the example is served."""
        found = re.fullmatch(r"refused(?: by the engine)?: `([a-z_.]+)`", self.outcome)
        return found and found[1]

    @property
    def comes_through_the_door(self) -> bool:
        return not self.outcome.startswith("refused:")


def cases() -> list[Case]:
    """Read every row but the headings."""
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    rows = [ROW.fullmatch(line) for line in lines[1:]]
    assert all(rows)
    return [Case(**row.groupdict()) for row in rows if row]
