"""Each keyword of JSON Schema 2020-12, and of older drafts: enforced by the engine, a note, or refused.

What llguidance (1.7) does with each was found by experiment; `tests/fuzz/constraints.py` goes on looking.
"""

from typing import Final

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
# Older dialects that the engine reads alike as far as this module lets a schema go; `prefixItems` came after them.
OLDER_DIALECTS: Final = (
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
    "https://json-schema.org/draft-07/schema",
)
FORMATS: Final = ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid")
LARGEST_NUMBER: Final = 2**53
MOST_DIGITS: Final = 15
MOST_ITEMS: Final = 10_000
LONGEST_STRING: Final = 1_000_000

# fmt: off
ENFORCED: Final = frozenset({
    "$ref", "additionalProperties", "allOf", "anyOf", "const", "enum", "exclusiveMaximum", "exclusiveMinimum",
    "format", "items", "maxItems", "maxLength", "maxProperties", "maximum", "minItems", "minLength", "minProperties",
    "minimum", "multipleOf", "oneOf", "pattern", "patternProperties", "prefixItems", "properties", "required", "type",
})
# fmt: on
# fmt: off
NOTES: Final = frozenset({
    "$anchor", "$comment", "$defs", "$id", "$schema", "$vocabulary", "contentEncoding", "contentMediaType",
    "contentSchema", "default", "definitions", "deprecated", "description", "examples", "readOnly", "title",
    "writeOnly",
})
# fmt: on
INSTEAD: Final = {
    "$dynamicAnchor": "write '$anchor' or a path for '$ref'",
    "$dynamicRef": "write '$ref'",
    "$recursiveAnchor": "write '$anchor' or a path for '$ref'",
    "$recursiveRef": "write '$ref'",
    "additionalItems": "write 'prefixItems' and 'items'",
    "contains": "write 'items' or 'prefixItems'",
    "dependencies": "write the cases as 'anyOf'",
    "dependentRequired": "write the cases as 'anyOf'",
    "dependentSchemas": "write the cases as 'anyOf'",
    "else": "write the cases as 'anyOf'",
    "if": "write the cases as 'anyOf'",
    "maxContains": "write 'maxItems'",
    "minContains": "write 'minItems'",
    "not": "write what is allowed",
    "propertyNames": "write 'patternProperties' and 'additionalProperties': false",
    "then": "write the cases as 'anyOf'",
    "unevaluatedItems": "write 'items'",
    "unevaluatedProperties": "write 'additionalProperties'",
    "uniqueItems": "write 'enum' or check the answer",
    "x-guidance": "the engine's own switches are not the caller's",
}
