"""The page on structured output says of each keyword what the code does."""

import re

from scheduler.schema_keywords import ENFORCED, FORMATS, INSTEAD, NOTES
from tests.processes import ROOT

PAGE = (ROOT / "docs" / "structured_output.md").read_text()


def test_the_table_of_keywords_is_the_code_s() -> None:
    rows = re.findall(r"^\| `(\S+)` \| (\w+) \| (.*?) ?\|$", PAGE, re.MULTILINE)
    expected = {(name, "enforced", "") for name in ENFORCED} | {(name, "note", "") for name in NOTES}
    assert set(rows) == expected | {(name, "refused", f"the door: {why}") for name, why in INSTEAD.items()}


def test_the_formats_are_the_code_s() -> None:
    assert f"Formats: {', '.join(FORMATS)};" in PAGE
