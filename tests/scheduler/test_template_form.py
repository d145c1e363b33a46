"""A conversation is given in the form that its template takes, and what a template leaves out is named."""

from typing import Any

import pytest

from scheduler.chat import Conversation
from scheduler.chat_template import ChatTemplate

USER = {"role": "user", "content": "hi"}
SYSTEM = {"role": "system", "content": "Be brief."}
CALLED = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"place": "Köln"}}}
OTHER = {"id": "c2", "type": "function", "function": {"name": "now", "arguments": {}}}
CALL: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [CALLED]}
ANSWER = {"role": "tool", "content": "12 °C", "tool_call_id": "c1"}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}
EACH = "{% for m in messages %}{{ m.role }}: BODY {% endfor %}"
CONTENT = EACH.replace("BODY", "{{ m.content }}")


def calls(body: str) -> str:
    return EACH.replace("BODY", "{{ m.content or '' }}{% for c in m.tool_calls or [] %}" + body + "{% endfor %}")


OBJECT = calls("{{ c.function.name }}{{ c.function.arguments | tojson }}")
TEXT = calls("{{ c.function.name + c.function.arguments }}")
AS_IT_IS = calls("{{ c.function.name }}{{ c.function.arguments }}")
BESIDE_NONE = EACH.replace(
    "BODY",
    "{% if m.content is none %}{{ m.tool_calls[0].function.name + m.tool_calls[0].function.arguments }}"
    "{% else %}{{ m.content }}{% endif %}",
)
PARTS = EACH.replace("BODY", "{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}")
WITH_TOOLS = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}" + OBJECT


def losses(template: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> list[str]:
    conversation = Conversation(messages, tools or [], False)
    return [each.field for each in ChatTemplate(template, {}).losses(conversation)]


@pytest.mark.parametrize("template", [OBJECT, TEXT, AS_IT_IS, BESIDE_NONE], ids=["object", "text", "as is", "none"])
def test_a_call_is_given_as_the_template_takes_it(template: str) -> None:
    conversation = Conversation([USER, CALL, ANSWER], [], False)
    rendered = ChatTemplate(template, {}).render(conversation)
    assert rendered == 'user: hi assistant: weather{"place": "Köln"} tool: 12 °C '
    assert losses(template, [USER, CALL, ANSWER]) == []


def test_content_is_given_in_parts_to_templates_that_read_parts() -> None:
    template = ChatTemplate(PARTS, {})
    assert template.render(Conversation([SYSTEM, USER], [], False)) == "system: Be brief. user: hi "
    assert template.losses(Conversation([SYSTEM, USER], [], False)) == []


@pytest.mark.parametrize(
    ("template", "messages", "tools", "fields"),
    [
        (CONTENT, [USER], [TOOL], ["chat.tools"]),
        (WITH_TOOLS, [USER, CALL, ANSWER], [TOOL, TOOL], []),
        ("{% for t in tools %}{{ t.function.name }}{% endfor %}" + OBJECT, [USER], [TOOL],
         ["chat.tools[0].description", "chat.tools[0].parameters_json"]),
        (CONTENT, [USER, CALL], [],
         ["chat.messages[1].tool_calls[0].name", "chat.messages[1].tool_calls[0].arguments_json"]),
        (BESIDE_NONE, [USER, {**CALL, "content": "Let me see."}], [],
         ["chat.messages[1].tool_calls[0].name", "chat.messages[1].tool_calls[0].arguments_json"]),
        (BESIDE_NONE, [USER, {**CALL, "tool_calls": [CALLED, OTHER]}], [], ["chat.messages[1].tool_calls[1].name"]),
        ("{% for m in messages if m.role != 'tool' %}{{ m.content }}{{ m.tool_calls }}{% endfor %}",
         [USER, CALL, ANSWER], [], ["chat.messages[2].content"]),
        ("{{ messages[-1].content }}", [SYSTEM, USER], [], ["chat.messages[0].content"]),
        (CONTENT, [{**USER, "name": "Ann"}], [], ["chat.messages[0].name"]),
        (EACH.replace("BODY", "{{ m.name }} {{ m.content }}"), [{**USER, "name": "Ann"}], [], []),
        (OBJECT, [USER, CALL, {**ANSWER, "name": "weather"}], [], []),
        ("{% for m in messages %}{{ m.content | trim | tojson | upper | lower }}{% endfor %}", [SYSTEM, USER], [], []),
    ],
)  # fmt: skip
def test_what_a_template_leaves_out_is_named(
    template: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]], fields: list[str]
) -> None:
    assert losses(template, messages, tools) == fields


@pytest.mark.parametrize(
    ("ids", "fields"),
    [
        (["c1", "c2"], []),
        (["c2", "c1"], ["chat.messages[2].tool_call_id", "chat.messages[3].tool_call_id"]),
        (["c2"], ["chat.messages[2].tool_call_id"]),
        (["c9"], ["chat.messages[2].tool_call_id"]),
    ],
)
def test_answers_keep_the_order_of_the_calls_where_a_template_leaves_ids_out(ids: list[str], fields: list[str]) -> None:
    both = {**CALL, "tool_calls": [CALLED, OTHER]}
    messages = [USER, both, *({**ANSWER, "tool_call_id": each} for each in ids)]
    assert losses(OBJECT, messages) == fields
    with_ids = calls("{{ c.id }}{{ c.function | tojson }}").replace("m.content or ''", "m.tool_call_id, m.content")
    assert losses(with_ids, messages) == []


def test_an_id_that_only_the_call_shows_does_not_tell_which_answer_is_its() -> None:
    both = {**CALL, "tool_calls": [CALLED, OTHER]}
    shown = calls("{{ c.id }}{{ c.function | tojson }}")
    assert losses(shown, [USER, both, {**ANSWER, "tool_call_id": "c2"}]) == ["chat.messages[2].tool_call_id"]


def test_what_is_known_of_one_shape_is_not_said_of_another() -> None:
    template = ChatTemplate("{{ messages[-1].content }}", {})
    for _ in range(2):
        assert template.losses(Conversation([USER], [], False)) == []
        for content in ("a", "b"):
            told = template.losses(Conversation([{**SYSTEM, "content": content}, USER], [], False))
            assert [each.field for each in told] == ["chat.messages[0].content"]
    for turns in range(1, 300):
        assert template.losses(Conversation([SYSTEM, USER] * turns, [], False))


def test_every_message_of_a_very_long_conversation_is_looked_for() -> None:
    assert losses(CONTENT, [USER, {"role": "assistant", "content": "x"}] * 10_000) == []
    assert losses(CONTENT + "{# #}", [*[USER] * 10_000, {**USER, "name": "Ann"}]) == ["chat.messages[10000].name"]


def test_what_cannot_be_told_is_not_refused() -> None:
    template = "{% if 'hi' not in messages[0].content %}{{ raise_exception('greet me') }}{% endif %}{{ messages }}"
    assert losses(template, [USER]) == []


@pytest.mark.parametrize(("mentions", "role"), [("{# developer #}", "developer"), ("", "system")])
def test_a_developer_whom_the_template_would_drop_is_the_system(mentions: str, role: str) -> None:
    dropping = "{% for m in messages if m.role in ('system', 'user') %}{{ m.role }} {% endfor %}"
    developer = Conversation([{"role": "developer", "content": "x"}], [], False)
    assert ChatTemplate(dropping + "{# developer #}", {}).render(developer) == "system "
    assert ChatTemplate(CONTENT + mentions, {}).render(developer) == f"{role}: x "
