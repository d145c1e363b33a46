"""The demo model's tokenizer: byte-level BPE as Qwen's, trained on the demo answers and some general English."""

import json
from collections.abc import Iterator
from pathlib import Path
from pydoc_data import topics as general_english

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from worker.demo_answers import TOPICS

VOCABULARY_TOKENS = 3072
END_OF_TEXT, START_OF_MESSAGE, END_OF_MESSAGE = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
DEFAULT_SYSTEM = "You are a helpful assistant."

# The rule by which Qwen2 cuts text into words. transformers rebuilds a Qwen2 tokenizer with this very rule, whatever
# tokenizer.json says, so that any other would tokenise differently there.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = r"""
{%- if messages and messages[0].role == 'system' %}
    {%- set system, turns = messages[0].content, messages[1:] %}
{%- else %}
    {%- set system, turns = 'DEFAULT_SYSTEM', messages %}
{%- endif %}
{{- '<|im_start|>system\n' + system }}
{%- if tools %}
    {{- '\n\n# Tools\n\nThese functions can help with the request. Their signatures stand within <tools></tools>:' }}
    {{- '\n<tools>' }}
    {%- for tool in tools %}
        {{- '\n' + (tool | tojson) }}
    {%- endfor %}
    {{- '\n</tools>\n\nTo call one, write its name and arguments as a JSON object within <tool_call></tool_call>:' }}
    {{- '\n<tool_call>\n{"name": <name>, "arguments": <arguments as a JSON object>}\n</tool_call>' }}
{%- endif %}
{{- '<|im_end|>\n' }}
{%- for message in turns %}
    {%- if message.role == 'tool' %}
        {%- if loop.first or loop.previtem.role != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' + (message.content or '') + '\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- else %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content or not message.tool_calls %}
            {{- '\n' + (message.content or '') }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- set function = call.function or call %}
            {%- set arguments = function.arguments %}
            {{- '\n<tool_call>\n{"name": ' + (function.name | tojson) + ', "arguments": ' }}
            {{- (arguments if arguments is string else arguments | tojson) + '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
""".strip().replace("DEFAULT_SYSTEM", DEFAULT_SYSTEM)


def train_tokenizer() -> Tokenizer:
    """Make the tokenizer, in about a second. Every text survives encoding and decoding, up to Unicode's NFC form."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [END_OF_TEXT, START_OF_MESSAGE, END_OF_MESSAGE]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_TOKENS - len(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_special_tokens(special)  # last, as Qwen has them
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, *, context_tokens: int) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` as transformers and vLLM read them."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": context_tokens,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "bos_token": None,
        "unk_token": None,
        "eos_token": END_OF_MESSAGE,
        "pad_token": END_OF_TEXT,
        "additional_special_tokens": [START_OF_MESSAGE, END_OF_MESSAGE],
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")


def _corpus() -> Iterator[str]:
    """The texts to learn words from: the demo's own, often enough to become whole tokens, and Python's help pages."""
    for topic in TOPICS:
        for text in (topic.question, *topic.paraphrases, topic.answer, DEFAULT_SYSTEM, "system user assistant\n"):
            # Characters beyond ASCII stay several tokens long: a stream that cuts through them is worth showing.
            yield from [text.encode("ascii", "ignore").decode()] * 20
    yield from general_english.topics.values()
