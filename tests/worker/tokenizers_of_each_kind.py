"""Small tokenizers: the demo's, one whose tokens cut through characters and hold several, and a SentencePiece-like."""

from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from worker.demo_tokenizer import train_tokenizer

UNICODE = [
    "Größe naïve déjà vu",
    "漢字 かな 先生 한국어",
    "🙂 🙃 👩\u200d👩\u200d👧 🇩🇪 🇫🇷",
    "a\u0301e\u0308o\u0302 ज़ि நி",
    "שלום مرحبا",
]
SPECIAL = ["<s>", "</s>"]


@cache
def demo() -> Tokenizer:
    return train_tokenizer()


@cache
def byte_level() -> Tokenizer:
    """Learnt from Unicode: a token is several characters, a part of one, or a part of one and a part of the next.

    Of the added tokens one has characters that stand for bytes, another one that does not.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        show_progress=False,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(UNICODE * 3, trainer)
    tokenizer.add_tokens(["<|plain|>", "two words", AddedToken("ünlü", normalized=False)])
    return tokenizer


@cache
def byte_fallback() -> Tokenizer:
    """As SentencePiece models are converted: words begin with a mark, unknown characters are bytes."""
    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz.,é漢"]
    tokenizer = Tokenizer(
        models.BPE({piece: place for place, piece in enumerate(pieces)}, [], unk_token="<s>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer
