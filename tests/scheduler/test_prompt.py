"""Inputs become the token ids that the model's own library would make of them."""

import pytest
from tokenizers import Tokenizer

from scheduler.chat import Conversation
from scheduler.errors import InvalidRequest
from scheduler.prompt import PromptTokenizer, TokenizerError
from tests.scheduler.door_examples import QWEN_STYLE_TEMPLATE, SPECIAL_TOKENS, tokenizer_document, tokenizer_json

TEXTS = ["x", "Grüße, 世界! 👩‍🚀", "<|im_start|>user\nhi<|im_end|>", "a\x00b", " " * 100, "long " * 5000]
HELLO = Conversation([{"role": "user", "content": "Hello, wörld"}], [], continue_final_message=False)

WITH_TOOLS = Conversation(
    HELLO.messages,
    [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}],
    continue_final_message=False,
)


@pytest.fixture(scope="module")
def tokenizer() -> PromptTokenizer:
    return PromptTokenizer(tokenizer_document())


@pytest.mark.parametrize("text", TEXTS)
def test_plain_text_gets_the_models_special_tokens_and_is_neither_cut_nor_padded(
    tokenizer: PromptTokenizer, text: str
) -> None:
    ids = tokenizer.encode(text)
    plain = Tokenizer.from_str(tokenizer_json())
    plain.no_truncation()
    plain.no_padding()
    assert ids[0] == plain.token_to_id("<|begin|>")
    assert plain.decode(ids[1:], skip_special_tokens=False) == text


def test_a_conversation_gets_only_what_the_template_writes(tokenizer: PromptTokenizer) -> None:
    ids = tokenizer.encode(HELLO)
    plain = Tokenizer.from_str(tokenizer_json())
    assert plain.decode(ids, skip_special_tokens=False) == tokenizer.render(HELLO)
    assert plain.token_to_id("<|begin|>") not in ids
    assert ids[0] == plain.token_to_id("<|im_start|>")


@pytest.mark.parametrize("prompt", [*TEXTS, HELLO])
def test_ids_equal_those_of_transformers(tokenizer: PromptTokenizer, prompt: str | Conversation) -> None:
    transformers = pytest.importorskip("transformers")
    reference = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer_json()), chat_template=QWEN_STYLE_TEMPLATE, **SPECIAL_TOKENS
    )
    expected = (
        reference(prompt, padding=False, truncation=False).input_ids
        if isinstance(prompt, str)
        else reference.apply_chat_template(prompt.messages, add_generation_prompt=True, return_dict=False)
    )
    assert tokenizer.encode(prompt) == expected


def test_token_ids_are_taken_as_they_are(tokenizer: PromptTokenizer) -> None:
    assert tokenizer.encode([5, 4, 300]) == [5, 4, 300]


def test_a_model_without_a_chat_template_says_so() -> None:
    tokenizer = PromptTokenizer(tokenizer_document(None))
    assert not tokenizer.supports_chat
    with pytest.raises(InvalidRequest, match="chat: must not be used: the model has no chat template"):
        tokenizer.encode(HELLO)


def test_a_template_that_refuses_a_conversation_makes_the_chat_invalid() -> None:
    tokenizer = PromptTokenizer(tokenizer_document("{{ raise_exception('only poems') }}"))
    assert tokenizer.supports_chat
    with pytest.raises(InvalidRequest, match=r"chat: .*only poems"):
        tokenizer.encode(HELLO)


def named(**templates: str) -> PromptTokenizer:
    return PromptTokenizer(tokenizer_document(templates.get("default"), chat_templates=templates))


def test_tools_take_the_template_that_is_named_after_them() -> None:
    tokenizer = named(default="plain", tool_use="{{ messages }}{{ tools }}", rag="{% not even valid")
    assert "weather" in tokenizer.render(WITH_TOOLS)
    with pytest.raises(InvalidRequest, match="leaves it out"):  # it shows no message, and was taken all the same
        tokenizer.render(HELLO)


def test_the_default_template_serves_tools_where_none_is_named_after_them() -> None:
    assert "weather" in named(default="{{ messages }}{{ tools }}", rag="x").render(WITH_TOOLS)


def test_a_model_with_a_template_for_tools_alone_wants_tools() -> None:
    tokenizer = named(tool_use="{{ messages }}{{ tools }}")
    assert tokenizer.supports_chat
    assert "weather" in tokenizer.render(WITH_TOOLS)
    with pytest.raises(InvalidRequest, match=r"chat\.tools: must not be empty"):
        tokenizer.render(HELLO)


def test_what_a_template_leaves_out_makes_the_chat_invalid() -> None:
    tokenizer = PromptTokenizer(tokenizer_document("{{ messages[-1].content }}"))
    messages = [{"role": "system", "content": "Be brief."}, *HELLO.messages]
    with pytest.raises(InvalidRequest, match=r"chat\.messages\[0\]\.content: must not be used here: .*leaves it out"):
        tokenizer.encode(Conversation(messages, [], continue_final_message=False))


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        tokenizer_document(tokenizer="{}"),
        tokenizer_document(tokenizer=None),
        tokenizer_document("{% if %}"),
        tokenizer_document()[:-9],
    ],
)
def test_a_document_that_will_not_do_is_an_error_of_one_kind(document: bytes) -> None:
    with pytest.raises(TokenizerError, match=r"cannot be loaded|not valid"):
        PromptTokenizer(document)
