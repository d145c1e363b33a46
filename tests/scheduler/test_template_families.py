"""Templates of public model families say what they say in transformers, and nothing of a conversation gets lost."""

from typing import Any

import pytest

from scheduler.chat import Conversation
from scheduler.chat_template import ChatTemplate, ChatTemplateError
from tests.scheduler.template_packages import templates

LLAMA_CPP, TRL, AXOLOTL = "llama-cpp-python", "trl", "axolotl"
# By family: the packages' templates, as patterns of their names.
FAMILIES = {
    "Apertus": [(LLAMA_CPP, "Apertus*")],
    "Apriel": [(LLAMA_CPP, "*Apriel*")],
    "Aya": [(AXOLOTL, "aya")],
    "Bielik": [(LLAMA_CPP, "Bielik*")],
    "Command A": [(AXOLOTL, "command_a*")],
    "Command R": [(LLAMA_CPP, "CohereForAI*"), (AXOLOTL, "cohere"), (TRL, "cohere*"), (LLAMA_CPP, "Cohere2*")],
    "DeepSeek R1": [(LLAMA_CPP, "*DeepSeek-R1*"), (LLAMA_CPP, "llama-cpp-deepseek-r1"), (TRL, "deepseek_r1*")],
    "DeepSeek V2": [(AXOLOTL, "deepseek_v2")],
    "DeepSeek V3": [(LLAMA_CPP, "*DeepSeek-V3*"), (AXOLOTL, "deepseek_v3"), (TRL, "deepseekv3")],
    "DeepSeek V4": [(LLAMA_CPP, "*DeepSeek-V4*")],
    "Devstral": [(LLAMA_CPP, "*Devstral*")],
    "EXAONE": [(AXOLOTL, "exaone*")],
    "Falcon": [(AXOLOTL, "falcon*")],
    "FireFunction": [(LLAMA_CPP, "*firefunction*")],
    "Functionary": [(LLAMA_CPP, "*functionary*")],
    "Gemma": [(LLAMA_CPP, "*gemma*"), (AXOLOTL, "gemma*"), (TRL, "*gemma*")],
    "GigaChat": [(LLAMA_CPP, "GigaChat*")],
    "GLM": [(LLAMA_CPP, "GLM*"), (TRL, "glm*")],
    "gpt-oss": [(LLAMA_CPP, "*gpt-oss*"), (TRL, "gptoss")],
    "Granite": [(LLAMA_CPP, "*granite*")],
    "Hermes": [(LLAMA_CPP, "*Hermes*")],
    "Hunyuan": [(LLAMA_CPP, "tencent*")],
    "Idefics": [(TRL, "idefics*")],
    "Jamba": [(AXOLOTL, "jamba")],
    "Kimi": [(LLAMA_CPP, "*Kimi*")],
    "Laguna": [(LLAMA_CPP, "*Laguna*")],
    "LFM": [(LLAMA_CPP, "LFM*"), (TRL, "lfm*")],
    "Ling": [(LLAMA_CPP, "*ling*")],
    "Llama": [(LLAMA_CPP, "meta-llama*"), (AXOLOTL, "llama*"), (TRL, "llama3*")],
    "LLaVA": [(AXOLOTL, "llava"), (TRL, "llava*")],
    "Metharme": [(AXOLOTL, "metharme")],
    "MiMo": [(LLAMA_CPP, "MiMo*")],
    "MiniCPM": [(LLAMA_CPP, "*MiniCPM*")],
    "MiniMax": [(LLAMA_CPP, "MiniMax*")],
    "Ministral": [(LLAMA_CPP, "*Ministral*")],
    "Mistral": [(LLAMA_CPP, "*Mistral-*"), (AXOLOTL, "mistral*")],
    "Muse": [(LLAMA_CPP, "muse*"), (TRL, "muse*")],
    "Nemotron": [(LLAMA_CPP, "NVIDIA*"), (AXOLOTL, "nemotron*"), (TRL, "nemotron*")],
    "Phi": [(LLAMA_CPP, "*Phi*"), (AXOLOTL, "phi*"), (TRL, "phi*")],
    "Pixtral": [(AXOLOTL, "pixtral")],
    "Qwen2": [(LLAMA_CPP, "*Qwen2*"), (AXOLOTL, "qwen2*"), (AXOLOTL, "qwen_25"), (TRL, "qwen2*")],
    "Qwen3": [(LLAMA_CPP, "*Qwen3*"), (AXOLOTL, "qwen3*"), (TRL, "qwen3*")],
    "QwQ": [(LLAMA_CPP, "*QwQ*")],
    "Reka": [(LLAMA_CPP, "Reka*")],
    "RWKV": [(LLAMA_CPP, "*rwkv*")],
    "Seed": [(LLAMA_CPP, "*Seed*")],
    "SmolLM": [(LLAMA_CPP, "*SmolLM*")],
    "SmolVLM": [(TRL, "smolvlm")],
    "Solar": [(LLAMA_CPP, "*Solar*")],
    "Spark": [(LLAMA_CPP, "Spark*")],
    "StepFun": [(LLAMA_CPP, "StepFun*")],
}
# Their templates want what the API does not carry, or what the sandbox forbids, in transformers as here.
NEVER = {"fireworks-ai-llama-3-firefunction-v2"}
ONLY_WITH_TOOLS = {"CohereForAI-c4ai-command-r-plus-tool_use", "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use"}
ONLY_WITH_TOOLS |= {"NousResearch-Hermes-3-Llama-3.1-8B-tool_use"}

SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
SYSTEM = {"role": "system", "content": "Be brief.\n\nAlways."}
USER = {"role": "user", "content": "How warm is it?"}
UNICODE = {"role": "user", "content": 'Grüße, 世界! 👩‍🚀 <b>&amp;</b> "q" {{ bos_token }}'}
SAID = {"role": "assistant", "content": "It is mild."}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "description": "Where, é"}}}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells the weather", "parameters": {**PARAMETERS, "required": []}},
}


def call(number: int, **arguments: Any) -> dict[str, Any]:
    function = {"name": "weather", "arguments": arguments}
    return {"id": f"call0000{number}", "type": "function", "function": function}


CALL: dict[str, Any] = {
    "role": "assistant",
    "content": "",
    "tool_calls": [call(1, city="Porto", days=2.5, more={"b": True})],
}
ANSWER = {"role": "tool", "content": "12 degrees", "tool_call_id": "call00001"}
ANSWER_2 = {"role": "tool", "content": "9 degrees", "tool_call_id": "call00002"}
PARALLEL = {**CALL, "tool_calls": [call(1, city="Porto"), call(2, city="Braga")]}
CONVERSATIONS = {
    "one turn": Conversation([USER], [], False),
    "system": Conversation([SYSTEM, USER], [], False),
    "developer": Conversation([{**SYSTEM, "role": "developer"}, USER], [], False),
    "several turns": Conversation([SYSTEM, USER, SAID, UNICODE, SAID, USER], [], False),
    "late system": Conversation([USER, SAID, SYSTEM, USER], [], False),
    "open end": Conversation([USER, {**SAID, "content": "It is "}], [], True),
    "tools": Conversation([USER], [TOOL], False),
    "tools and system": Conversation([SYSTEM, USER], [TOOL], False),
    "call": Conversation([USER, CALL, ANSWER], [TOOL], False),
    "call with text": Conversation([USER, {**CALL, "content": "Let me see."}, ANSWER], [TOOL], False),
    "parallel calls": Conversation([SYSTEM, USER, PARALLEL, ANSWER, ANSWER_2, SAID, USER], [TOOL], False),
    "call without tools": Conversation([USER, CALL, ANSWER, SAID, USER], [], False),
    "call without arguments": Conversation([USER, {**CALL, "tool_calls": [call(1)]}, ANSWER], [TOOL], False),
    "open end after a call": Conversation([USER, CALL, ANSWER, SAID], [TOOL], True),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_familys_templates_render_like_transformers_or_refuse(family: str) -> None:
    for package, pattern in FAMILIES[family]:
        found = templates(package, pattern)
        assert found, f"{package} has no {pattern}"
        for name, source in found.items():
            template = ChatTemplate(source, SPECIAL_TOKENS)
            served = {each for each, conversation in CONVERSATIONS.items() if serves(template, source, conversation)}
            if name not in NEVER:
                assert ("tools" if name in ONLY_WITH_TOOLS else "one turn") in served, name


@pytest.mark.parametrize(
    ("package", "pattern"), [(LLAMA_CPP, "*DeepSeek-R1-Distill*"), (TRL, "deepseek*"), (AXOLOTL, "deepseek_v3")]
)
def test_deepseeks_templates_show_calls(package: str, pattern: str) -> None:
    for source in templates(package, pattern).values():
        assert serves(ChatTemplate(source, SPECIAL_TOKENS), source, CONVERSATIONS["call without tools"])


def serves(template: ChatTemplate, source: str, conversation: Conversation) -> bool:
    """Compare with transformers; tell whether the conversation is served, and check that its calls are then there."""
    expected = render_with_transformers(template, source, conversation)
    try:
        rendered = template.render(conversation)
    except ChatTemplateError:
        assert expected is None
        return False
    assert rendered == expected
    if template.losses(conversation):
        return False
    for message in conversation.messages:
        for each in message.get("tool_calls", []):
            assert each["function"]["name"] in rendered
            assert each["function"]["arguments"].get("city", "") in rendered
    return True


def render_with_transformers(template: ChatTemplate, source: str, conversation: Conversation) -> str | None:
    library = pytest.importorskip("transformers.utils.chat_template_utils")
    try:
        rendered, _ = library.render_jinja_template(
            [[template.form.of(message) for message in conversation.messages]],
            tools=conversation.tools or None,
            chat_template=source,
            continue_final_message=conversation.continue_final_message,
            add_generation_prompt=not conversation.continue_final_message,
            **SPECIAL_TOKENS,
        )
    except Exception:  # a template fails in as many ways as a program
        return None
    return str(rendered[0])
