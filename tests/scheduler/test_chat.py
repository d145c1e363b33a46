"""Conversations are read as chat templates expect them, and what is wrong with one is named."""

import pytest

from common.rich_status import Violation
from scheduler.chat import read_chat
from sluice.v1.inference_pb2 import Chat, ChatMessage, Tool, ToolCall

HI = ChatMessage(role="user", content="hi")


def violations(chat: Chat) -> list[tuple[str, str]]:
    found: list[Violation] = []
    read_chat(chat, found)
    return [(each.field, each.description) for each in found]


def test_messages_and_tools_take_the_form_that_templates_read() -> None:
    found: list[Violation] = []
    call = ToolCall(id="c1", name="weather", arguments_json='{"z": 1, "place": "Köln"}')
    conversation = read_chat(
        Chat(
            messages=[
                ChatMessage(role="developer", content="Be brief."),
                ChatMessage(role="user", content="hi", name="Ann"),
                ChatMessage(role="assistant", tool_calls=[call, ToolCall(name="now")]),
                ChatMessage(role="tool", content="12", tool_call_id="c1"),
                ChatMessage(role="assistant", content="It is"),
            ],
            tools=[
                Tool(name="weather", description="The weather", parameters_json='{"type": "object", "b": 1, "a": 2}'),
                Tool(name="now"),
            ],
            continue_final_message=True,
        ),
        found,
    )
    assert found == []
    assert conversation.continue_final_message
    assert conversation.messages == [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "hi", "name": "Ann"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": {"z": 1, "place": "Köln"}},
                },
                {"type": "function", "function": {"name": "now", "arguments": {}}},
            ],
        },
        {"role": "tool", "content": "12", "tool_call_id": "c1"},
        {"role": "assistant", "content": "It is"},
    ]
    assert conversation.tools == [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "The weather",
                "parameters": {"type": "object", "b": 1, "a": 2},
            },
        },
        {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
    ]
    assert list(conversation.tools[0]["function"]["parameters"]) == ["type", "b", "a"]


@pytest.mark.parametrize(
    ("chat", "field", "description"),
    [
        (Chat(), "chat.messages", "must not be empty"),
        (
            Chat(messages=[HI, ChatMessage(role="robot", content="x")]),
            "chat.messages[1].role",
            "must be one of system, developer, user, assistant, tool; got robot",
        ),
        (Chat(messages=[ChatMessage(content="x")]), "chat.messages[0].role", "got "),
        (Chat(messages=[ChatMessage(role="r" * 99, content="x")]), "chat.messages[0].role", "got " + "r" * 39 + "…"),
        (Chat(messages=[ChatMessage(role="user")]), "chat.messages[0].content", "must not be empty"),
        (
            Chat(
                messages=[ChatMessage(role="user", content="x", tool_calls=[ToolCall(name="f", arguments_json="{}")])]
            ),
            "chat.messages[0].tool_calls",
            "except for role assistant",
        ),
        (
            Chat(messages=[ChatMessage(role="user", content="x", tool_call_id="c")]),
            "chat.messages[0].tool_call_id",
            "except for role tool",
        ),
        (
            Chat(messages=[ChatMessage(role="assistant", tool_calls=[ToolCall(name="f", arguments_json="[]")])]),
            "chat.messages[0].tool_calls[0].arguments_json",
            "must be a JSON object; got an array",
        ),
        (
            Chat(messages=[ChatMessage(role="assistant", tool_calls=[ToolCall(arguments_json="{}")])]),
            "chat.messages[0].tool_calls[0].name",
            "must not be empty",
        ),
        (Chat(messages=[HI], tools=[Tool()]), "chat.tools[0].name", "must not be empty"),
        (
            Chat(messages=[HI], tools=[Tool(name="f"), Tool(name="g", parameters_json="{,}")]),
            "chat.tools[1].parameters_json",
            "must be JSON",
        ),
        (
            Chat(messages=[HI], continue_final_message=True),
            "chat.continue_final_message",
            "only where the last message is the assistant's; got role user",
        ),
    ],
)
def test_what_is_wrong_is_named(chat: Chat, field: str, description: str) -> None:
    ((found_field, found_description),) = violations(chat)
    assert found_field == field
    assert description in found_description


def test_several_faults_are_told_at_once() -> None:
    chat = Chat(messages=[ChatMessage(role="x"), HI], tools=[Tool(parameters_json="1")], continue_final_message=True)
    assert [field for field, _ in violations(chat)] == [
        "chat.continue_final_message",
        "chat.messages[0].role",
        "chat.tools[0].name",
        "chat.tools[0].parameters_json",
    ]


def test_a_message_with_a_million_faults_is_not_read_to_its_end() -> None:
    found: list[Violation] = []
    conversation = read_chat(Chat(messages=[ChatMessage()] * 100_000), found)
    assert 16 <= len(found) < 20
    assert len(conversation.messages) < 20
