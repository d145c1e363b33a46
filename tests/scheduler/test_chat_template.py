"""The chat template says what it says in transformers, and no template can hold a thread for ever."""

from typing import Any

import pytest
from tokenizers import Tokenizer

from scheduler.chat import Conversation
from scheduler.chat_template import ChatTemplate, ChatTemplateError
from tests.scheduler.door_examples import OTHER_STYLE_TEMPLATE, QWEN_STYLE_TEMPLATE, SPECIAL_TOKENS, tokenizer_json

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Wetter für <einen> Ort & 'mehr'",
        "parameters": {
            "type": "object",
            "properties": {"z": {"type": "string"}, "a": {"enum": ["é", "😀", None, 1.5]}},
        },
    },
}
USER = {"role": "user", "content": 'Grüße, 世界! 👩‍🚀 <b>&amp;</b> "q" {{ bos_token }} {% raw %}'}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"z": "Köln", "a": 1}}},
        {"type": "function", "function": {"name": "weather", "arguments": {}}},
    ],
}
ANSWERS = [
    {"role": "tool", "content": "12 °C", "tool_call_id": "c1"},
    {"role": "tool", "content": "unknown"},
]
SYSTEM = {"role": "system", "content": "Be brief.\n\nAlways."}
SAID = {"role": "assistant", "content": "  Yes.\n\nIt is "}

CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "one turn": ([USER], []),
    "system": ([SYSTEM, USER], []),
    "several turns": ([SYSTEM, USER, SAID, USER, SAID, USER], []),
    "late system": ([USER, SAID, SYSTEM, USER], []),
    "tools": ([USER], [WEATHER, WEATHER]),
    "tools and system": ([SYSTEM, USER], [WEATHER]),
    "calls": ([SYSTEM, USER, CALL, *ANSWERS, SAID, USER], [WEATHER]),
    "calls with text": ([USER, {**CALL, "content": "Let me see."}, ANSWERS[0]], [WEATHER]),
    "names": ([{**USER, "name": "Ann"}], []),
}


def render_with_transformers(
    template: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]], **options: bool
) -> str:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer_json()), **SPECIAL_TOKENS
    )
    text = tokenizer.apply_chat_template(
        messages, tools=tools or None, chat_template=template, tokenize=False, **options
    )
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_renders_like_transformers(name: str) -> None:
    messages, tools = CONVERSATIONS[name]
    rendered = ChatTemplate(QWEN_STYLE_TEMPLATE, SPECIAL_TOKENS).render(Conversation(messages, tools, False))
    assert rendered == render_with_transformers(QWEN_STYLE_TEMPLATE, messages, tools, add_generation_prompt=True)


def test_other_templates_render_like_transformers() -> None:
    messages = [SYSTEM, USER, SAID]
    rendered = ChatTemplate(OTHER_STYLE_TEMPLATE, SPECIAL_TOKENS).render(Conversation(messages, [], False))
    assert rendered == render_with_transformers(OTHER_STYLE_TEMPLATE, messages, [], add_generation_prompt=True)
    assert "<é>" in rendered
    assert rendered.index('"b"') < rendered.index('"a"')


@pytest.mark.parametrize("template", [QWEN_STYLE_TEMPLATE, OTHER_STYLE_TEMPLATE], ids=["keeps space", "strips"])
@pytest.mark.parametrize("content", ["It is ", "It is", " \n It", "It is CONTINUE_FINAL_MESSAGE_TAG or not"])
def test_an_open_last_message_ends_like_in_transformers(template: str, content: str) -> None:
    messages = [USER, {"role": "assistant", "content": content}]
    rendered = ChatTemplate(template, SPECIAL_TOKENS).render(Conversation(messages, [], True))
    assert rendered == render_with_transformers(template, messages, [], continue_final_message=True)
    assert rendered.endswith((content, content.strip()))


def test_rendering_leaves_the_conversation_as_it_was() -> None:
    messages = [dict(USER), dict(SAID)]
    ChatTemplate(QWEN_STYLE_TEMPLATE, SPECIAL_TOKENS).render(Conversation(messages, [], True))
    assert messages == [USER, SAID]


@pytest.mark.parametrize("knows", [False, True])
def test_a_developer_is_the_system_to_templates_that_do_not_know_the_role(knows: bool) -> None:
    template = "{% for m in messages %}{{ m.role }}:{{ m.content }} {% endfor %}" + "{# developer #}" * knows
    rendered = ChatTemplate(template, {}).render(Conversation([{"role": "developer", "content": "x"}], [], False))
    assert rendered == ("developer:x " if knows else "system:x ")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].nothing.more }}", "has no attribute 'nothing'"),
        ("{{ messages[0].content + 1 }}", "fails with TypeError"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "fails with OverflowError"),
    ],
)
def test_a_template_that_fails_says_why_and_never_what_was_said(template: str, why: str) -> None:
    secret = "my secret"
    with pytest.raises(ChatTemplateError, match=why) as caught:
        ChatTemplate(template, {}).render(Conversation([{"role": "user", "content": secret}], [], False))
    assert secret not in str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    ],
    ids=["silent", "writing"],
)
def test_a_template_that_goes_on_and_on_is_stopped(template: str) -> None:
    with pytest.raises(ChatTemplateError, match="too long"):
        ChatTemplate(template, {}, limit_s=0.05).render(Conversation([USER], [], False))


def test_a_template_that_drops_the_open_message_is_refused() -> None:
    template = ChatTemplate("{{ messages[0].content }}", {})
    with pytest.raises(ChatTemplateError, match="leaves out"):
        template.render(Conversation([USER, SAID], [], True))


def test_a_template_with_a_syntax_error_is_refused_at_once() -> None:
    with pytest.raises(ChatTemplateError, match="not valid"):
        ChatTemplate("{% for %}", {})
