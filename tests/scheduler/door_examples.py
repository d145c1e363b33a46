"""What the door's tests share: a small tokenizer, chat templates, a served model."""

import json
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from scheduler.served_model import ServedModel
from sluice.v1.generation_pb2 import SamplingParams
from sluice.worker.v1 import worker_pb2

# The constructs of Qwen2.5's template: tools as JSON, calls in either form, answers of tools gathered into one turn.
QWEN_STYLE_TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You help.' }}
    {%- endif %}
    {{- "\\n\\n# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools>\\nAnswer {\\"name\\": <name>, \\"arguments\\": <object>}<|im_end|>\\n" }}
{%- elif messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "system" and loop.first and tools %}
        {%- continue %}
    {%- endif %}
    {%- if message.role in ["user", "system"] or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for call in message.tool_calls %}
            {%- if call.function is defined %}
                {%- set call = call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
            {{- call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or messages[loop.index0 - 1].role != "tool" %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != "tool" %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# Constructs that other templates use: blocks on lines of their own, special tokens, stripping, refusals, the clock.
OTHER_STYLE_TEMPLATE = """\
{{ bos_token }}
{% for message in messages %}
    {% if message['role'] == 'tool' %}
        {{ raise_exception('no tools here') }}
    {% endif %}
    {% generation %}
    [{{ message['role'] | upper }}] {{ message['content'] | trim }}{{ eos_token }}
    {% endgeneration %}
    {% if loop.index > 90 %}{% break %}{% endif %}
{% endfor %}
{% if add_generation_prompt %}[ASSISTANT]{% endif %}
{{ {'b': '<é>', 'a': 1} | tojson(indent=2) }} {{ strftime_now('%Y') | length }}{{ undefined_name }}
"""

SPECIAL_TOKENS = {"bos_token": "<|begin|>", "eos_token": "<|im_end|>"}


def tokenizer_json() -> str:
    """Return a byte-level tokenizer with 256 + 4 ids that begins plain text with <|begin|>, padded and truncated."""
    alphabet = {piece: index for index, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin|>"])
    begin = tokenizer.token_to_id("<|begin|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", begin)]
    )
    # As some published tokenizers have it; serving must not cut prompts short or fill them up.
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=16, pad_token="<|endoftext|>")
    return tokenizer.to_str()


def tokenizer_document(chat_template: str | None = QWEN_STYLE_TEMPLATE, **replaced: Any) -> bytes:
    document = {"tokenizer": tokenizer_json(), "chat_template": chat_template, "special_tokens": SPECIAL_TOKENS}
    return json.dumps({**document, **replaced}).encode()


def served_model(
    chat_template: str | None = QWEN_STYLE_TEMPLATE,
    *,
    context_tokens: int = 4096,
    generation_config: SamplingParams | None = None,
) -> ServedModel:
    model = worker_pb2.Model(
        name="demo", context_tokens=context_tokens, vocabulary_size=260, generation_config=generation_config
    )
    return ServedModel.from_worker(model, tokenizer_document(chat_template))
