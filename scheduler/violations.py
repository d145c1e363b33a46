"""How the door words what is wrong with a request: field, bound and value, and never the text of a prompt."""

from common.rich_status import Violation

LONGEST_VALUE = 40


def must(field: str, bound: str, got: object) -> Violation:
    """Say that ``field`` must be or have what ``bound`` says, and which value it has instead.

    >>> must("sampling.temperature", "be in [0, 2]", -1.0).description
    'must be in [0, 2]; got -1'
    """
    return Violation(field, f"must {bound}; got {short(got)}")


def short(value: object) -> str:
    """Return ``value`` as an error may show it: at most 40 characters."""
    text = value if isinstance(value, str) else repr(value).removesuffix(".0")
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"
