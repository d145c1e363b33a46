"""The tokenizer of the original, byte for byte: a scheduler takes workers with equal tokenizers only."""

import shutil
from pathlib import Path
from typing import Final

PATTERNS: Final = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*.model",
)


def copy_tokenizer(model: str, output: Path) -> None:
    """Copy the tokenizer's files from a folder, or from the hub's cache, where loading has just put them."""
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(model, allow_patterns=list(PATTERNS)))
    for pattern in PATTERNS:
        for file in filter(Path.is_file, folder.glob(pattern)):
            shutil.copyfile(file, output / file.name)
