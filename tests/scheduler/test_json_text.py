"""JSON in a request's fields is JSON, and not what Python makes of it."""

import json

import pytest

from scheduler.json_text import JsonTextError, parse_json, parse_json_object


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value at character 0"),
        ("{", "at character 1"),
        ('{"a": 1} x', "Extra data at character 9"),
        ("{'a': 1}", "at character 1"),
        ('{"a": NaN}', "no NaN"),
        ("[-Infinity]", "no -Infinity"),
        ("[" * 100_000, "nests too deeply"),
        ("9" * 5000, "a number is too long"),
        ('{"a": 1e999}', "a number is too large"),
        ("[-1e999]", "a number is too large"),
        (r'{"a": ["\ud83d"]}', "half of a surrogate pair"),
        (r'{"\udc00": 1}', "half of a surrogate pair"),
    ],
)
def test_what_is_not_json_is_refused_and_not_repeated(text: str, why: str) -> None:
    with pytest.raises(JsonTextError, match=why) as caught:
        parse_json(text)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_json_of_any_depth_is_read_or_refused_and_what_is_read_can_be_written(opening: str, closing: str) -> None:
    refused = 0
    for levels in range(800, 1001):
        try:
            json.dumps(parse_json(opening * levels + r'"\u00e9"' + closing * levels))
        except JsonTextError:
            refused += 1
    assert 0 < refused < 200


def test_json_is_returned_in_its_own_order() -> None:
    assert list(parse_json(r'{"z": "\ud83d\ude00", "a": [1.5, true, null]}').items()) == [
        ("z", "😀"),
        ("a", [1.5, True, None]),
    ]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[]", "an array"),
        ("null", "null"),
        ("true", "a boolean"),
        ('"x"', "a string"),
        ("1", "a number"),
        ("1.5", "a number"),
    ],
)
def test_an_object_is_an_object(text: str, kind: str) -> None:
    with pytest.raises(JsonTextError, match=f"must be a JSON object; got {kind}$"):
        parse_json_object(text)
    assert parse_json_object("{}") == {}
