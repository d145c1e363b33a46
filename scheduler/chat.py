"""Conversations: from the API's messages to what chat templates expect."""

from dataclasses import dataclass
from typing import Any

from common.rich_status import Violation
from scheduler.json_text import JsonTextError, parse_json_object
from scheduler.violations import must
from sluice.v1.inference_pb2 import Chat, ChatMessage, Tool, ToolCall

# Nobody reads more faults than this, and a message of some MiB can hold a million of them.
ENOUGH = 16
ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation in the form that chat templates read.

    Attributes:
        messages: Dictionaries with role, content and, where set, name, tool_calls, tool_call_id.
        tools: Functions as JSON-schema descriptions; empty: none.
        continue_final_message: Whether the last message is left open for the model to continue.

    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    continue_final_message: bool


def read_chat(chat: Chat, found: list[Violation]) -> Conversation:
    """Return the conversation; what is wrong with it is appended to ``found``, and it must then not be used."""
    if not chat.messages:
        found.append(Violation("chat.messages", "must not be empty"))
    elif chat.continue_final_message and chat.messages[-1].role != "assistant":
        bound = "be set only where the last message is the assistant's"
        found.append(must("chat.continue_final_message", bound, f"role {chat.messages[-1].role}"))
    messages = []
    for index, message in enumerate(chat.messages):
        messages.append(_read_message(f"chat.messages[{index}]", message, found))
        if len(found) >= ENOUGH:
            break
    return Conversation(
        messages=messages,
        tools=[_read_tool(f"chat.tools[{i}]", each, found) for i, each in enumerate(chat.tools)],
        continue_final_message=chat.continue_final_message,
    )


def _read_message(field: str, message: ChatMessage, found: list[Violation]) -> dict[str, Any]:
    _check_message(field, message, found)
    read: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name:
        read["name"] = message.name
    if message.tool_calls:
        calls = enumerate(message.tool_calls)
        read["tool_calls"] = [_read_call(f"{field}.tool_calls[{i}]", each, found) for i, each in calls]
    if message.tool_call_id:
        read["tool_call_id"] = message.tool_call_id
    return read


def _check_message(field: str, message: ChatMessage, found: list[Violation]) -> None:
    if message.role not in ROLES:
        found.append(must(f"{field}.role", f"be one of {', '.join(ROLES)}", message.role))
    if message.tool_calls and message.role != "assistant":
        found.append(Violation(f"{field}.tool_calls", "must be empty, except for role assistant"))
    if message.tool_call_id and message.role != "tool":
        found.append(Violation(f"{field}.tool_call_id", "must be empty, except for role tool"))
    if not message.content and message.role == "user":
        found.append(Violation(f"{field}.content", "must not be empty for role user"))


def _read_call(field: str, call: ToolCall, found: list[Violation]) -> dict[str, Any]:
    if not call.name:
        found.append(Violation(f"{field}.name", "must not be empty"))
    function = {"name": call.name, "arguments": _read_arguments(field, call, found)}
    read = {"type": "function", "function": function}
    return {"id": call.id, **read} if call.id else read


def _read_arguments(field: str, call: ToolCall, found: list[Violation]) -> dict[str, Any]:
    # Models write nothing at all where a function takes nothing.
    return _read_object(f"{field}.arguments_json", call.arguments_json, found) if call.arguments_json else {}


def _read_tool(field: str, tool: Tool, found: list[Violation]) -> dict[str, Any]:
    if not tool.name:
        found.append(Violation(f"{field}.name", "must not be empty"))
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    # A function without parameters is described as one that takes an empty object.
    function["parameters"] = (
        _read_object(f"{field}.parameters_json", tool.parameters_json, found)
        if tool.parameters_json
        else {"type": "object", "properties": {}}
    )
    return {"type": "function", "function": function}


def _read_object(field: str, text: str, found: list[Violation]) -> dict[str, Any]:
    try:
        return parse_json_object(text)
    except JsonTextError as error:
        found.append(Violation(field, str(error)))
        return {}
