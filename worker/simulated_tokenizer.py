"""The tokenizer of the simulated engine: a model folder's, or a small built-in one."""

import re
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from worker.bad_words import BadWords
from worker.detokenizer import Detokenizer
from worker.tokenizer_files import TokenizerFiles, read_tokenizer

# How byte-level and SentencePiece vocabularies write a word with the space before it.
_WORD = re.compile("[Ġ▁][a-z]{2,}")
# Among so many words there is one full stop and one comma.
_WORDS_PER_MARK = 12
_COMMON_IDS = 32

_BUILT_IN_WORDS = """
a about above across after again all allows also always an and another answer any are around as ask at away back batch
be because been before begins being below best better between block both box budget but by cache call came can card
client clock close come comes cost could count day deadline decode did different do does done down each early either
else empty end engine enough even every fair far fast few field finds first five follows for four free from full gave
get gets give given gives go goes going good great group had half hand has have he held help her here high him his hold
holds hour how if in into is it its just keep keeps key kind knows large last late later latency lease least leaves
left length less let like line list little load long longer look low made main make makes many may means memory message
might model more most much must name near need needs never new next no none not nothing now number of off often old on
once one only open or order other our out output over own part people place plan point policy possible prefill prompt
queue quick rate reads ready reason refused request rest right room rule runs said same say says scheduler second see
send sends sequence server service set several shares she short should show side simple since size slow small so some
soon space starts state stays step steps still stops stream such system take takes target ten than that the their them
then there these they thing think this those though three through time to together token tokens told too took turn two
under until up use used user uses usual value very wait waits want was way we well went were what when where which
while who whole why will with within without word words work worker works would write year yes you your
"""

_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def load_tokenizer(folder: Path | None) -> TokenizerFiles:
    """Read the folder's tokenizer, or build the built-in one when there is no folder.

    Raises:
        FileNotFoundError: The folder has no ``tokenizer.json``.

    """
    return read_tokenizer(folder) if folder else _built_in()


def _built_in() -> TokenizerFiles:
    """Build a byte-level BPE of the 256 bytes and some common words, each with the space before it."""
    words = ["Ġ" + word for word in _BUILT_IN_WORDS.split()]
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *words]
    vocabulary = {piece: token_id for token_id, piece in enumerate(pieces)}
    # Without merges: a word of the vocabulary is one token, any other is its bytes.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    special_tokens = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return TokenizerFiles(tokenizer.to_str(), {"default": _CHAT_TEMPLATE}, special_tokens)


class Vocabulary:
    """A tokenizer's ids, as the simulated engine writes with them.

    Attributes:
        tokenizer: The tokenizer itself.
        detokenizer: What makes text of its ids.
        bad_words: What spells a word in its ids.
        size: All ids are below it.
        eos_id: The end token.
        prose_ids: What free text is made of: whole words with the space before them, now and then a mark.
        common_ids: Some ids without repetition, words first.

    Raises:
        ValueError: The tokenizer has no end token.

    """

    def __init__(self, files: TokenizerFiles) -> None:
        self.tokenizer: Tokenizer = Tokenizer.from_str(files.tokenizer_json)
        self.detokenizer = Detokenizer(self.tokenizer)
        self.bad_words = BadWords(self.tokenizer)
        ids = self.tokenizer.get_vocab()
        self.size = max(ids.values()) + 1
        eos_token = files.special_tokens.get("eos_token")
        if eos_token not in ids:
            raise ValueError(f"the tokenizer's end token, {eos_token!r}, is not in its vocabulary")
        self.eos_id = ids[eos_token]
        self.prose_ids = _prose_ids(ids) or sorted(ids.values())
        self.common_ids = list(dict.fromkeys([*self.prose_ids, *sorted(ids.values())]))[:_COMMON_IDS]


def _prose_ids(ids: dict[str, int]) -> list[int]:
    words = sorted(token_id for piece, token_id in ids.items() if _WORD.fullmatch(piece))
    marks = [ids[mark] for mark in ".," if mark in ids]
    return words + marks * (len(words) // _WORDS_PER_MARK // max(len(marks), 1))
