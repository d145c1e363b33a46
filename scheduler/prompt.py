"""From an input to token ids: the model's own tokenizer and chat template, without the model's library."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from common.rich_status import Violation
from scheduler.chat import Conversation
from scheduler.chat_template import ChatTemplate, ChatTemplateError
from scheduler.errors import InvalidRequest

# The names by which transformers chooses among several templates; others, such as rag, it takes only when told to.
DEFAULT, TOOL_USE = "default", "tool_use"
PromptInput = str | Conversation | Sequence[int]


class TokenizerError(Exception):
    """A worker's tokenizer document cannot be used; the message says why."""


class PromptTokenizer:
    """Turns inputs into token ids. It blocks while it works, and may be used by several threads at once.

    Args:
        document: The JSON object that ``WorkerService.GetTokenizer`` sends. Loading it can take a second.

    Raises:
        TokenizerError: The document is not what it should be.

    """

    def __init__(self, document: bytes) -> None:
        try:
            described = json.loads(document)
            self._tokenizer = Tokenizer.from_str(described["tokenizer"])
            self._templates = _templates(described)
        except ChatTemplateError as error:
            raise TokenizerError(str(error)) from error
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(f"the tokenizer cannot be loaded: {error!r:.200}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    @property
    def supports_chat(self) -> bool:
        """Whether the model has a chat template."""
        return bool(self._templates)

    def encode(self, prompt: PromptInput) -> list[int]:
        """Return the token ids of an input; token ids are returned as they are.

        Raises:
            InvalidRequest: The template does not accept the conversation, or the model has none.

        """
        match prompt:
            case str():
                return self._encode(prompt, add_special_tokens=True)
            case Conversation():
                return self._encode(self.render(prompt), add_special_tokens=False)
            case _:
                return list(prompt)

    def render(self, conversation: Conversation) -> str:
        """Return the text that the chat template makes of a conversation.

        Raises:
            InvalidRequest: The template does not accept it, or the model has none.

        """
        template = self._template_for(conversation)
        try:
            text = template.render(conversation)
        except ChatTemplateError as error:
            raise InvalidRequest([Violation("chat", str(error))]) from error
        if losses := template.losses(conversation):
            raise InvalidRequest(losses)
        return text

    def _template_for(self, conversation: Conversation) -> ChatTemplate:
        """Return the template that transformers would take."""
        name = TOOL_USE if conversation.tools and TOOL_USE in self._templates else DEFAULT
        if name in self._templates:
            return self._templates[name]
        if self._templates:
            raise InvalidRequest([Violation("chat.tools", "must not be empty: the model's chat template is for tools")])
        raise InvalidRequest([Violation("chat", "must not be used: the model has no chat template")])

    def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        # Unlike encode, this one lets other threads run meanwhile, and it leaves out the offsets that nobody reads.
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return encoding.ids


def _templates(described: Mapping[str, Any]) -> dict[str, ChatTemplate]:
    """Return the templates that conversations are rendered by; documents without names have one, or none."""
    sources = described.get("chat_templates") or {DEFAULT: described["chat_template"]}
    special_tokens = described["special_tokens"]
    return {name: ChatTemplate(source, special_tokens) for name in (DEFAULT, TOOL_USE) if (source := sources.get(name))}
