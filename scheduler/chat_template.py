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

from common.rich_status import Violation
from scheduler.chat import Conversation
from scheduler.template_form import find_form
from scheduler.template_losses import Twin

# Stands at the end of a message that the model is to continue; the text is cut there.
OPEN_END = "CONTINUE_FINAL_MESSAGE_TAG "
LONGEST_WHY = 120
# Most conversations are of few shapes, and what is lost of one is known after the first.
MOST_SHAPES = 256
LONGEST_SHAPE = 4096

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

    Attributes:
        form: What the template takes.

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
        self._losses: dict[str, list[Violation]] = {}
        self.form = find_form(self._probe, mentions_developer="developer" in source)

    def render(self, conversation: Conversation) -> str:
        """Return the prompt's text, ending where the model is to go on.

        Raises:
            ChatTemplateError: The template does not accept the conversation, or takes too long over it.

        """
        messages = list(conversation.messages)
        if not conversation.continue_final_message:
            return self._render(messages, conversation.tools, add_generation_prompt=True)
        said = messages[-1]["content"]
        messages[-1] = {**messages[-1], "content": said + OPEN_END}
        return _cut_open_end(self._render(messages, conversation.tools, add_generation_prompt=False), said)

    def losses(self, conversation: Conversation) -> list[Violation]:
        """Return a violation for each part of a conversation, one that can be rendered, that the text would lack."""
        twin = Twin.of(conversation)
        shape = repr(twin.conversation)
        if (known := self._losses.get(shape)) is not None:
            return known
        try:
            losses = twin.losses(self.render(twin.conversation))
        except ChatTemplateError:  # it wants content of a certain kind; what it would leave out cannot be told
            return []
        self._remember(shape, losses)
        return losses

    def _remember(self, shape: str, losses: list[Violation]) -> None:
        if len(self._losses) >= MOST_SHAPES:
            self._losses.clear()
        if len(shape) <= LONGEST_SHAPE:
            self._losses[shape] = losses

    def _probe(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str | None:
        try:
            return self._generate(messages, tools, add_generation_prompt=True)
        except ChatTemplateError:
            return None

    def _render(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], *, add_generation_prompt: bool
    ) -> str:
        adapted = [self.form.of(message) for message in messages]
        return self._generate(adapted, tools, add_generation_prompt=add_generation_prompt)

    def _generate(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], *, add_generation_prompt: bool
    ) -> str:
        pieces = []
        _stop_at_s.set(monotonic() + self._limit_s)
        try:
            for piece in self._template.generate(
                messages=messages,
                tools=tools or None,
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


def _cut_open_end(text: str, said: str) -> str:
    end = text.rfind(OPEN_END.strip())
    if end < 0 or said.strip() not in text:
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
