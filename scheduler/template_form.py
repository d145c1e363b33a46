"""The form in which a chat template takes what conversations hold: found by rendering probes."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
# Renders messages and tools; None where the template does not accept them.
Render = Callable[[list[Message], list[Message]], str | None]

SAID = "sluice-said"
NAME, KEY, VALUE = "sluice_name", "sluice_key", "sluice-value"
ASKS: Message = {"role": "user", "content": "sluice-asks"}
CALL: Message = {"id": "sluice0id", "type": "function", "function": {"name": NAME, "arguments": {KEY: VALUE}}}
ANSWERS: Message = {"role": "tool", "content": "sluice-answers", "tool_call_id": "sluice0id", "name": NAME}
TOOL: Message = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "",
        "parameters": {"type": "object", "properties": {"sluice_parameter": {"type": "string"}}},
    },
}


@dataclass(frozen=True, slots=True)
class TemplateForm:
    """What a template takes.

    Attributes:
        content_in_parts: Content as a list of parts, as templates of models that see pictures have it, not as text.
        arguments_as_text: A call's arguments as JSON text, not as an object.
        no_content_is_none: Content that is missing beside calls as None, not as "".
        knows_developer: Whether it has the role; to others a developer is the system.

    """

    content_in_parts: bool = False
    arguments_as_text: bool = False
    no_content_is_none: bool = False
    knows_developer: bool = False

    def of(self, message: Message) -> Message:
        """Return a message in this form."""
        adapted = {**message, "content": self._content(message)}
        if message["role"] == "developer" and not self.knows_developer:
            adapted["role"] = "system"
        if self.arguments_as_text and "tool_calls" in message:
            adapted["tool_calls"] = [_with_text(call) for call in message["tool_calls"]]
        return adapted

    def _content(self, message: Message) -> Any:
        content = message["content"]
        if not content and self.no_content_is_none and "tool_calls" in message:
            return None
        return [{"type": "text", "text": content}] if content and self.content_in_parts else content


def find_form(render: Render, *, mentions_developer: bool) -> TemplateForm:
    """Return the form in which a template shows everything, the most common one where several do.

    Args:
        render: Renders a probe.
        mentions_developer: Whether the template's source names the role. One that writes any role that it is given
            does not, and its model has not seen the word.

    """
    in_parts = not _shows_text(render, TemplateForm()) and _shows_text(render, TemplateForm(content_in_parts=True))
    developer = {"role": "developer", "content": SAID}
    form = TemplateForm(
        content_in_parts=in_parts,
        knows_developer=mentions_developer and SAID in (render([developer, ASKS], []) or ""),
    )
    return next((each for each in _forms_of_calls(form) if _shows_call(render, each)), form)


def _forms_of_calls(form: TemplateForm) -> Iterator[TemplateForm]:
    for as_text in (False, True):
        for as_none in (False, True):
            yield TemplateForm(form.content_in_parts, as_text, as_none, form.knows_developer)


def _shows_text(render: Render, form: TemplateForm) -> bool:
    return ASKS["content"] in (render([form.of(ASKS)], []) or "")


def _shows_call(render: Render, form: TemplateForm) -> bool:
    """Some templates show calls only where there are tools, and some fail where there are."""
    messages = [form.of(each) for each in (ASKS, {"role": "assistant", "content": "", "tool_calls": [CALL]}, ANSWERS)]
    texts = [text for tools in ([TOOL], []) if (text := render(messages, tools))]
    return any(VALUE in text and not _is_miswritten(text) for text in texts)


def _is_miswritten(text: str) -> bool:
    """An object that was to be text is written as Python writes it, and a text that was to be an object is quoted."""
    return f"{{'{KEY}'" in text or f'\\"{KEY}' in text


def _with_text(call: Message) -> Message:
    function = call["function"]
    text = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": text}}
