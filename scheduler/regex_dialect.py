"""Regular expressions that mean the same to the engine as to their writer; the rest is refused with its place."""

import re
from typing import NoReturn

LONGEST_REGEX = 8_192
DEEPEST_GROUPS = 64
MOST_REPEATS = 10_000
# What `\` may stand before: these letters, and ASCII punctuation, which it makes literal.
SHORTHANDS = "dDwWsS"
CONTROLS = "nrtfv"
PUNCTUATION = r"""\.+*?()|[]{}^$#&-~/"'!%,:;<=>@_` """
SIZED = {"x": re.compile(r"[0-9A-Fa-f]{2}"), "u": re.compile(r"[0-9A-Fa-f]{4}")}
PROPERTY = re.compile(r"[pP](?:[A-Z]|\{\^?[A-Za-z_]+(?:=[A-Za-z_]+)?\})")
REPEAT = re.compile(r"\{(\d{1,6})(?:,(\d{0,6}))?\}")
NAMED = re.compile(r"\(\?P?<[A-Za-z_][A-Za-z0-9_]*>")
FLAGS = re.compile(r"\(\?([is]*)(?:-[is]+)?([:)])")
OPENINGS = {
    "(?=": "lookahead is not enforced",
    "(?!": "lookahead is not enforced",
    "(?<=": "lookbehind is not enforced",
    "(?<!": "lookbehind is not enforced",
    "(?P=": "a backreference is not enforced",
    "(?>": "an atomic group is not enforced",
    "(?#": "a comment is not taken",
}
BOUNDARIES = "bBGKmMyY"
ANCHOR_BEFORE = "'^' stands for the beginning and can only come first"
ANCHOR_AFTER = "'$' stands for the end and can only come last"


class _Fault(Exception):
    """What is wrong; the message says it with its place."""


def regex_fault(expression: str) -> str | None:
    """Return why a regular expression for a whole text is refused, or None."""
    return _Scan(expression).fault()


def pattern_fault(expression: str) -> str | None:
    """Return why a JSON schema's pattern is refused, or None: as a regex, without what validators read in two ways."""
    return _PatternScan(expression).fault()


class _Group:
    def __init__(self, *, first: bool) -> None:
        self.first = first  # whether nothing comes before it
        self.begins = False  # whether it holds '^'
        self.ends = False  # whether it holds '$'


class _Scan:
    """One pass over an expression; no recursion, so that no depth of it can end the process."""

    def __init__(self, expression: str) -> None:
        self.text = expression
        self.at = 0
        self.groups = [_Group(first=True)]
        self.first = True
        self.repeatable = False

    def fault(self) -> str | None:
        if len(self.text) > LONGEST_REGEX:
            return f"must have at most {LONGEST_REGEX} characters; got {len(self.text)}"
        try:
            while self.at < len(self.text):
                self._take()
            if len(self.groups) > 1:
                self._refuse("a group is not closed")
        except _Fault as fault:
            return str(fault)
        return None

    def _take(self) -> None:
        match self.text[self.at]:
            case "\\":
                self._escape(in_class=False)
                self._atom()
            case "[":
                self._class()
                self._atom()
            case "(":
                self._open()
            case ")":
                self._close()
            case "|":
                self.at += 1
                self.first, self.repeatable = self.groups[-1].first, False
            case "^":
                self._begin()
            case "$":
                self._end()
            case "*" | "+" | "?" | "{":
                self._repeat()
            case _:
                self.at += 1
                self._atom()

    def _atom(self) -> None:
        self.first, self.repeatable = False, True

    def _begin(self) -> None:
        if not self.first:
            self._refuse(ANCHOR_BEFORE)
        self.groups[-1].begins = True
        self.at += 1
        self.first = self.repeatable = False

    def _end(self) -> None:
        self.at += 1
        self.first = self.repeatable = False
        self._must_be_last()

    def _must_be_last(self) -> None:
        if self._next() not in ("", ")", "|"):
            self._refuse(ANCHOR_AFTER)
        self.groups[-1].ends = True

    def _open(self) -> None:
        rest = self.text[self.at : self.at + 64]
        for opening, why in OPENINGS.items():
            if rest.startswith(opening):
                self._refuse(why)
        if rest.startswith("(?") and not rest.startswith("(?:"):
            length = self._special_group(rest)
            if length is None:
                return
        else:
            length = 3 if rest.startswith("(?:") else 1
        if len(self.groups) > DEEPEST_GROUPS:
            self._refuse(f"groups must nest at most {DEEPEST_GROUPS} deep; they nest deeper")
        self.groups.append(_Group(first=self.first))
        self.at += length
        self.repeatable = False

    def _special_group(self, rest: str) -> int | None:
        """Return how long a group's head is, or None where flags stood alone and have been taken."""
        if named := NAMED.match(rest):
            return named.end()
        flags = FLAGS.match(rest)
        if flags is None or flags.end() == len("(?)"):
            self._refuse("this kind of group is not taken")
        if flags[2] == ":":
            return flags.end()
        if self.at:
            self._refuse("flags for the whole expression must come first")
        self.at += flags.end()
        return None

    def _close(self) -> None:
        if len(self.groups) == 1:
            self._refuse("')' closes no group")
        group = self.groups.pop()
        self.at += 1
        self._atom()
        if group.begins:
            self.groups[-1].begins = True
            if self._next() and self._next() in "*+?{":
                self._refuse(ANCHOR_BEFORE)
        if group.ends:
            self._must_be_last()

    def _repeat(self) -> None:
        if not self.repeatable:
            self._refuse(f"{self.text[self.at]!r} has nothing to repeat")
        self.at += self._repeat_length()
        if self._next() == "?":
            self.at += 1
        if self._next() and self._next() in "*+?":
            self._refuse("a possessive or doubled quantifier is not enforced")
        self.repeatable = False

    def _repeat_length(self) -> int:
        if self.text[self.at] != "{":
            return 1
        counted = REPEAT.match(self.text, self.at)
        if counted is None:
            self._refuse("'{' must begin {n}, {n,} or {n,m}; write \\{ for the character")
        least, most = int(counted[1]), int(counted[2] or counted[1])
        if most > MOST_REPEATS:
            self._refuse(f"must repeat at most {MOST_REPEATS} times; got {most}")
        if least > most:
            self._refuse("must repeat at least as often at most as at least")
        return counted.end() - counted.start()

    def _class(self) -> None:
        opened = self.at
        self.at += 2 if self.text.startswith("[^", self.at) else 1
        if self._next() == "]":
            self._refuse("']' cannot come first in a class; write \\]")
        while self._next() != "]":
            if not self._next():
                self.at = opened
                self._refuse("a class is not closed")
            if self._next() == "[" or self.text[self.at : self.at + 2] in ("&&", "--", "~~", "||"):
                self._refuse("classes within classes are not taken; write \\[, \\& and \\- for the characters")
            if self._next() == "\\":
                self._escape(in_class=True)
            else:
                self.at += 1
        self.at += 1

    def _escape(self, *, in_class: bool) -> None:
        escaped = self.text[self.at + 1 : self.at + 2]
        if not escaped:
            self._refuse("'\\' at the end escapes nothing")
        if escaped.isdigit() or escaped in "kg":
            self._refuse("a backreference or an octal number is not enforced")
        if escaped in BOUNDARIES:
            self._refuse(f"\\{escaped}, a place between characters, is not enforced")
        if escaped in SIZED:
            self._sized(escaped)
        elif escaped in "pP":
            self._property()
        elif escaped in self._plain_escapes():
            self.at += 2
        else:
            self._refuse(f"\\{escaped} is not known")

    def _plain_escapes(self) -> str:
        return SHORTHANDS + CONTROLS + PUNCTUATION

    def _sized(self, kind: str) -> None:
        digits = SIZED[kind].match(self.text, self.at + 2)
        if digits is None:
            self._refuse(f"\\{kind} needs {2 if kind == 'x' else 4} hexadecimal digits")
        self.at = digits.end()

    def _property(self) -> None:
        name = PROPERTY.match(self.text, self.at + 1)
        if name is None:
            self._refuse("\\p needs a property's name, as in \\p{Lu}")
        self.at = name.end()

    def _next(self) -> str:
        return self.text[self.at : self.at + 1]

    def _refuse(self, why: str) -> NoReturn:
        raise _Fault(f"at character {self.at}: {why}")


class _PatternScan(_Scan):
    """ECMA-262's: no flags, and no class that validators read in two ways."""

    def _special_group(self, rest: str) -> int | None:
        if FLAGS.match(rest):
            self._refuse("ECMA-262 has no flags within a pattern")
        return super()._special_group(rest)

    def _plain_escapes(self) -> str:
        escaped = self.text[self.at + 1]
        if escaped in "DW":
            plain = {"D": "[^0-9]", "W": "[^A-Za-z0-9_]"}[escaped]
            self._refuse(f"validators disagree on \\{escaped} beyond ASCII; write {plain}")
        return super()._plain_escapes()
