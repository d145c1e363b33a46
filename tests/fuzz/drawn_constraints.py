"""Constraints drawn from grammars of their own: schemas, regular expressions and choices, a few of them unsound."""

import json
import random
from typing import Any

from sluice.v1.generation_pb2 import Choices, StructuredOutput

NAMES = ["a", "b", "ab", "name", "é", 'q"', "x/y"]
WORDS = ["yes", "no", "", "a", 'say "hi"', "back\\slash", "line\nbreak", "é", "😀", "$&", "12"]
NUMBERS = [0, 1, -1, 2, 7, 10, 100, 0.5, -2.25, 0.1, 3.14, 1e3, 2**53, 2**60, 1e-7]
CLASSES = ["[a-c]", "[^a-z]", "[0-9]", r"\d", r"\w", r"\s", r"\p{Lu}", ".", r"[\]\-x]", r"[^\s]"]
LITERALS = ["a", "b", "yes", " ", "é", '"', r"\\", r"\.", r"\$", r"\n", "/", "-", "\n", "#", r"\u0041", r"\x42"]
UNSOUND = ["^", "$", r"\b", "(?=a)", r"\1", r"\Z", "(?>a)", "++", "[[a]b]", "(?i)"]
REFUSED = {
    "not": {"type": "null"},
    "if": True,
    "then": False,
    "contains": {"type": "integer"},
    "uniqueItems": True,
    "propertyNames": {"maxLength": 2},
    "dependentRequired": {"a": ["b"]},
    "unevaluatedProperties": False,
    "unevaluatedItems": False,
    "x-guidance": {"lenient": True},
    "$dynamicRef": "#",
}


class Draw:
    """What a seed draws."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def constraint(self) -> StructuredOutput:
        """Return one constraint."""
        kind = self.chance.random()
        if kind < 0.65:
            return StructuredOutput(json_schema=json.dumps(self.root_schema(), ensure_ascii=self._likely(0.5)))
        if kind < 0.9:
            return StructuredOutput(regex=self.regex(3))
        return StructuredOutput(choice=Choices(values=self.choices()))

    def choices(self) -> list[str]:
        """Return strings that are alike, equal, or each other's beginning."""
        values = [self._one(WORDS) + self._one(WORDS) for _ in range(self.chance.randint(1, 6))]
        return [value + "x" * self._likely(0.5) for value in values] + values[: self.chance.randint(0, 2)]

    def regex(self, depth: int) -> str:
        """Return a regular expression, whole or anchored, seldom with something that is not enforced."""
        inner = self._expression(depth)
        if self._likely(0.1):
            return "^" + inner
        if self._likely(0.1):
            return f"^(?:{inner})$"
        return "(?i)" * self._likely(0.1) + inner

    def root_schema(self) -> Any:
        """Return a schema with definitions that its parts refer to."""
        schema = self.schema(3)
        if isinstance(schema, dict):
            schema["$defs"] = {"one": self.schema(1), "two": self.schema(2)}
        return schema

    def schema(self, depth: int) -> Any:
        """Return a schema of at most ``depth`` levels."""
        if self._likely(0.03):
            return self._one([True, False])
        schema: dict[str, Any] = {}
        if self._likely(0.7):
            kinds = ["null", "boolean", "integer", "number", "string", "array", "object"]
            schema["type"] = self._one(kinds) if self._likely(0.8) else self.chance.sample(kinds, 2)
        for group in self.chance.sample(self._groups(), self.chance.choice([0, 1, 1, 2])):
            schema |= group(depth)
        if self._likely(0.02):
            keyword = self._one(list(REFUSED))
            schema[keyword] = REFUSED[keyword]
        return schema

    def _groups(self) -> list[Any]:
        return [self._numeric, self._textual, self._listed, self._named, self._literal, self._combined, self._textual]

    def _numeric(self, _depth: int) -> dict[str, Any]:
        bounds = {"minimum": -1, "maximum": 1, "exclusiveMinimum": -1, "exclusiveMaximum": 1}
        chosen = {key: self._one(NUMBERS) + sign * 7 for key, sign in bounds.items() if self._likely(0.35)}
        return chosen | ({"multipleOf": self._one([1, 2, 3, 0.5, 0.25, 0.1])} if self._likely(0.3) else {})

    def _textual(self, _depth: int) -> dict[str, Any]:
        drawn = {
            "minLength": self.chance.randint(0, 4),
            "maxLength": self.chance.randint(2, 8),
            "pattern": self.regex(2),
            "format": self._one(["date", "uuid", "ipv4", "time", "email", "iri"]),
        }
        return self._some(drawn, 0.35)

    def _listed(self, depth: int) -> dict[str, Any]:
        if not depth:
            return {}
        drawn = {
            "items": self.schema(depth - 1),
            "prefixItems": [self.schema(depth - 1) for _ in range(self.chance.randint(1, 2))],
            "minItems": self.chance.randint(0, 3),
            "maxItems": self.chance.randint(1, 4),
        }
        return self._some(drawn, 0.45)

    def _named(self, depth: int) -> dict[str, Any]:
        if not depth:
            return {}
        drawn = {
            "properties": {name: self.schema(depth - 1) for name in self._names()},
            "required": self._names(),
            "additionalProperties": self.schema(depth - 1) if self._likely(0.5) else False,
            "patternProperties": {self._one(["^a", "b$", "^x-"]): self.schema(depth - 1)},
            "minProperties": self.chance.randint(0, 2),
            "maxProperties": self.chance.randint(1, 3),
        }
        shares = [0.8, 0.5, 0.5, 0.15, 0.1, 0.1]
        return {key: value for (key, value), share in zip(drawn.items(), shares, strict=True) if self._likely(share)}

    def _literal(self, depth: int) -> dict[str, Any]:
        if self._likely(0.3):
            return {"const": self._value(depth)}
        return {"enum": [self._value(depth) for _ in range(self.chance.randint(1, 4))]}

    def _combined(self, depth: int) -> dict[str, Any]:
        if not depth or self._likely(0.25):
            return {"$ref": self._one(["#/$defs/one", "#/$defs/two", "#"])}
        keyword = self._one(["allOf", "anyOf", "oneOf", "anyOf"])
        return {keyword: [self.schema(depth - 1) for _ in range(self.chance.randint(1, 3))]}

    def _value(self, depth: int) -> Any:
        if depth and self._likely(0.2):
            return [self._value(0) for _ in range(2)] if self._likely(0.5) else {self._one(NAMES): self._value(0)}
        return self._one([None, True, False, *NUMBERS, *WORDS])

    def _expression(self, depth: int) -> str:
        if self._likely(0.01):
            return self._one(UNSOUND)
        if not depth or self._likely(0.35):
            return self._one(LITERALS) if self._likely(0.6) else self._one(CLASSES)
        parts = [self._expression(depth - 1) for _ in range(self.chance.randint(1, 3))]
        kind = self.chance.randint(0, 3)
        if kind == 0:
            return "".join(parts)
        if kind == 1:
            return f"{self._one(['(', '(?:', '(?P<n>'])}{'|'.join(parts)})"
        if kind == 2:
            return f"(?:{parts[0]}){self._one(['*', '+', '?', '{2}', '{1,3}', '{2,}', '+?'])}"
        return f"({parts[0]}){self._one(LITERALS)}"

    def _names(self) -> list[str]:
        return self.chance.sample(NAMES, self.chance.randint(0, 3))

    def _some(self, drawn: dict[str, Any], share: float) -> dict[str, Any]:
        return {key: value for key, value in drawn.items() if self._likely(share)}

    def _one(self, values: list[Any]) -> Any:
        return self.chance.choice(values)

    def _likely(self, share: float) -> bool:
        return self.chance.random() < share
