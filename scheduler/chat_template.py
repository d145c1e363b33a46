"""A model's chat template, rendered as the transformers library renders it."""

import json
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime
from time import monotonic
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from scheduler.chat import Conversation

# Stands at the end of a message that the model is to continue; the text is cut there.
OPEN_END = "CONTINUE_FINAL_MESSAGE_TAG "
LONGEST_WHY = 120

_stop_at_s: ContextVar[float] = ContextVar("stop_at_s")


class ChatTemplateError(Exception):
    """The template cannot be compiled, or it does not accept a conversation; the message says why."""


class _RenderingTimeoutError(TemplateError):
    """Rendering ran past its limit."""


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's part for training; for serving it means nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with a limit on time that every call of a template observes."""

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        _check_time()
        return super().call(context, obj, *args, **kwargs)


class ChatTemplate:
    """Turns a conversation into the text that the model reads.

    Args:
        source: The Jinja template.
        special_tokens: Names and texts that the template may use: bos_token, eos_token and the like.
        limit_s: Seconds that one rendering may take.

    Raises:
        ChatTemplateError: The template is not valid.

    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], *, limit_s: float = 5.0) -> None:
        environment = _Environment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ChatTemplateError(f"the chat template is not valid: {error}") from error
        self._special_tokens = dict(special_tokens)
        self._limit_s = limit_s
        # Templates that do not know the role would leave the message out without a word.
        self._knows_developer = "developer" in source

    def render(self, conversation: Conversation) -> str:
        """Return the prompt's text, ending where the model is to go on.

        Raises:
            ChatTemplateError: The template does not accept the conversation, or takes too long over it.

        """
        messages = [self._adapted(message) for message in conversation.messages]
        if not conversation.continue_final_message:
            return self._render(messages, conversation, add_generation_prompt=True)
        last = messages[-1]
        messages[-1] = {**last, "content": last["content"] + OPEN_END}
        return _cut_open_end(self._render(messages, conversation, add_generation_prompt=False))

    def _adapted(self, message: dict[str, Any]) -> dict[str, Any]:
        if message["role"] == "developer" and not self._knows_developer:
            return {**message, "role": "system"}
        return message

    def _render(
        self, messages: list[dict[str, Any]], conversation: Conversation, *, add_generation_prompt: bool
    ) -> str:
        pieces = []
        _stop_at_s.set(monotonic() + self._limit_s)
        try:
            for piece in self._template.generate(
                messages=messages,
                tools=conversation.tools or None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            ):
                pieces.append(piece)
                _check_time()
        except TemplateError as error:
            raise ChatTemplateError(f"the model's chat template says: {str(error)[:LONGEST_WHY]}") from error
        except Exception as error:  # a template is a program: it fails in as many ways, and may quote the prompt
            raise ChatTemplateError(f"the model's chat template fails with {type(error).__name__}") from error
        return "".join(pieces)


def _cut_open_end(text: str) -> str:
    end = text.rfind(OPEN_END.strip())
    if end < 0:
        raise ChatTemplateError("the model's chat template leaves out the message that is to be continued")
    # Where the space is gone the template has stripped the message, so that its end is the text's end.
    return text[:end] if text.startswith(OPEN_END, end) else text[:end].rstrip()


def _check_time() -> None:
    if monotonic() > _stop_at_s.get():
        raise _RenderingTimeoutError("rendering takes too long")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON without escaping for HTML, keys in their own order."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
