"""What a model folder says about its tokenizer and its sampling, in the form that workers pass on."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sluice.v1 import generation_pb2

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """A tokenizer as its files hold it.

    Attributes:
        tokenizer_json: Contents of ``tokenizer.json``.
        chat_templates: Jinja sources by name, ``default`` where there is one alone; empty when the model has none.
        special_tokens: Texts by role, for example ``{"eos_token": "<|im_end|>"}``.

    """

    tokenizer_json: str
    chat_templates: Mapping[str, str] = field(default_factory=dict)
    special_tokens: Mapping[str, str] = field(default_factory=dict)


def read_tokenizer(folder: Path) -> TokenizerFiles:
    """Read a model folder's tokenizer.

    Raises:
        FileNotFoundError: The folder has no ``tokenizer.json``.

    """
    tokenizer_json = (folder / "tokenizer.json").read_text(encoding="utf-8")
    config = {**_read_json(folder / "special_tokens_map.json"), **_read_json(folder / "tokenizer_config.json")}
    special_tokens = {name: text for name in SPECIAL_TOKENS if (text := _token_text(config.get(name)))}
    return TokenizerFiles(tokenizer_json, _read_chat_templates(folder, config), special_tokens)


def describe_tokenizer(
    tokenizer_json: str, chat_templates: Mapping[str, str], special_tokens: Mapping[str, str]
) -> bytes:
    """Return the JSON document that ``WorkerService.GetTokenizer`` sends."""
    document = {
        "tokenizer": tokenizer_json,
        "chat_template": chat_templates.get("default"),
        "special_tokens": dict(special_tokens),
    }
    if chat_templates.keys() - {"default"}:
        document["chat_templates"] = dict(chat_templates)
    return json.dumps(document, ensure_ascii=False).encode()


def digest(tokenizer_json: str) -> str:
    """Return the SHA-256 of the tokenizer file's contents, in hexadecimal."""
    return hashlib.sha256(tokenizer_json.encode()).hexdigest()


def read_generation_config(folder: Path) -> generation_pb2.SamplingParams:
    """Return the sampling values that the folder's ``generation_config.json`` names; all unset when there is none."""
    config = _read_json(folder / "generation_config.json")
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    sampling = generation_pb2.SamplingParams(**{name: config[name] for name in names if config.get(name) is not None})
    if config.get("do_sample") is False:
        sampling.temperature = 0
    return sampling


def named_templates(template: object) -> dict[str, str]:
    """Return templates by name, from one alone, a mapping, or a list of objects as tokenizer configurations have it."""
    match template:
        case str():
            return {"default": template}
        case list():
            return {entry["name"]: entry["template"] for entry in template}
        case Mapping():
            return dict(template)
        case _:
            return {}


def _read_chat_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Prefer the templates' own files, as transformers does; an older tokenizer_config holds them."""
    files = {file.stem: file for file in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    if (folder / "chat_template.jinja").exists():
        files["default"] = folder / "chat_template.jinja"
    texts = {name: file.read_text(encoding="utf-8") for name, file in files.items()}
    return texts or named_templates(config.get("chat_template"))


def _token_text(token: object) -> str | None:
    """Read a special token, written as its text or as an object with its content."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _read_json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}
