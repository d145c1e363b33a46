"""What a chat template would leave out of a conversation, found on a twin of it that is made of marks.

What was said cannot be looked for in the text: templates trim, escape and encode. A mark survives all of that.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from common.rich_status import Violation
from scheduler.chat import ENOUGH, Conversation

LEFT_OUT = "must not be used here: the model's chat template leaves it out"
OUT_OF_ORDER = "must come in the order of the calls: the model's chat template leaves ids out"
# One pass finds them all: a search for each would take minutes where a conversation has some ten thousand messages.
MARKS = re.compile(r"sluice\d+mark|slu\d{6,}")


@dataclass(frozen=True, slots=True)
class Mark:
    """What a mark stands for.

    Attributes:
        field: The part of the conversation.
        why: What is wrong where the mark is missing.
        times: How often the text must hold it.

    """

    field: str
    why: str = LEFT_OUT
    times: int = 1


@dataclass(slots=True)
class Twin:
    """A conversation of the same shape, in which each part is a mark.

    Attributes:
        conversation: The twin.
        marks: What must be found in the text that is made of it.

    """

    conversation: Conversation
    marks: dict[str, Mark] = field(default_factory=dict)
    _ids: dict[str, str] = field(default_factory=dict)
    _unanswered: list[str | None] = field(default_factory=list)

    @classmethod
    def of(cls, conversation: Conversation) -> "Twin":
        """Return the twin of a conversation; two that differ only in what they say have equal ones."""
        twin = cls(Conversation([], [], conversation.continue_final_message))
        for index, tool in enumerate(conversation.tools):
            twin.conversation.tools.append(twin._tool(f"chat.tools[{index}]", tool["function"]))
        for index, message in enumerate(conversation.messages):
            twin.conversation.messages.append(twin._message(f"chat.messages[{index}]", message))
        return twin

    def losses(self, text: str) -> list[Violation]:
        """Return a violation for each part that the text, made of the twin, lacks; tools that all miss are one."""
        found = Counter(MARKS.findall(text))
        missing = [mark for text_of, mark in self.marks.items() if found[text_of] < mark.times]
        names = {mark.field for mark in missing}
        tools = {f"chat.tools[{index}].name" for index in range(len(self.conversation.tools))}
        if tools and tools <= names:
            missing = [Mark("chat.tools"), *(mark for mark in missing if not mark.field.startswith("chat.tools["))]
        return [Violation(mark.field, mark.why) for mark in missing[:ENOUGH]]

    def _mark(self, name: str) -> str:
        text = f"sluice{len(self.marks)}mark"
        self.marks[text] = Mark(name)
        return text

    def _tool(self, name: str, function: dict[str, Any]) -> dict[str, Any]:
        twin = {**function, "name": self._mark(f"{name}.name")}
        if "description" in function:
            twin["description"] = self._mark(f"{name}.description")
        properties = {}
        if function["parameters"].get("properties"):
            properties = {self._mark(f"{name}.parameters_json"): {"type": "string", "description": "any"}}
        twin["parameters"] = {"type": "object", "properties": properties, "required": list(properties)}
        return {"type": "function", "function": twin}

    def _message(self, name: str, message: dict[str, Any]) -> dict[str, Any]:
        twin = dict(message)
        if message["content"]:
            twin["content"] = self._mark(f"{name}.content")
        # The name of a tool that answers is that of the call.
        if "name" in message and message["role"] != "tool":
            twin["name"] = self._mark(f"{name}.name")
        if "tool_calls" in message:
            calls = enumerate(message["tool_calls"])
            twin["tool_calls"] = [self._call(f"{name}.tool_calls[{i}]", call) for i, call in calls]
            self._unanswered = [call.get("id") for call in twin["tool_calls"]]
        if message["role"] == "tool":
            self._answer(f"{name}.tool_call_id", twin)
        return twin

    def _call(self, name: str, call: dict[str, Any]) -> dict[str, Any]:
        function = {"name": self._mark(f"{name}.name"), "arguments": {}}
        if call["function"]["arguments"]:
            function["arguments"] = {"key": self._mark(f"{name}.arguments_json")}
        return {**call, **({"id": self._id(call["id"])} if "id" in call else {}), "function": function}

    def _answer(self, name: str, twin: dict[str, Any]) -> None:
        """Give the answer the mark of its call's id; it must be in the text unless the order tells the call."""
        expected = self._unanswered.pop(0) if self._unanswered else None
        if "tool_call_id" in twin:
            known = twin["tool_call_id"] in self._ids
            twin["tool_call_id"] = self._id(twin["tool_call_id"])
            if expected not in (None, twin["tool_call_id"]):
                self.marks[twin["tool_call_id"]] = Mark(name, OUT_OF_ORDER, times=1 + known)

    def _id(self, name: str) -> str:
        """Return a mark that is nine letters and digits long, as some templates want ids to be."""
        return self._ids.setdefault(name, f"slu{len(self._ids):06}")
