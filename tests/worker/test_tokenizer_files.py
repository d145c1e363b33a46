import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from sluice.v1 import generation_pb2
from worker.tokenizer_files import describe_tokenizer, digest, named_templates, read_generation_config, read_tokenizer


def write(folder: Path, **contents: Any) -> Path:
    """Write each keyword as a JSON file of that name; text as it is, a template as .jinja."""
    for name, content in contents.items():
        file = folder / (f"{name}.jinja" if name == "chat_template" else f"{name}.json")
        file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder


def test_a_tokenizer_alone_is_enough(tmp_path: Path) -> None:
    files = read_tokenizer(write(tmp_path, tokenizer='{"ä": 1}'))
    assert (files.tokenizer_json, files.chat_templates, files.special_tokens) == ('{"ä": 1}', {}, {})


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_tokenizer(tmp_path)


def test_special_tokens_are_texts_or_objects(tmp_path: Path) -> None:
    config = {"bos_token": None, "eos_token": {"content": "</s>"}, "pad_token": "<pad>", "add_bos_token": False}
    files = read_tokenizer(write(tmp_path, tokenizer="{}", tokenizer_config=config))
    assert files.special_tokens == {"eos_token": "</s>", "pad_token": "<pad>"}


def test_the_tokenizer_config_overrides_the_special_tokens_map(tmp_path: Path) -> None:
    special_tokens_map = {"eos_token": "<old>", "unk_token": "<unk>"}
    write(tmp_path, tokenizer="{}", special_tokens_map=special_tokens_map, tokenizer_config={"eos_token": "<new>"})
    assert read_tokenizer(tmp_path).special_tokens == {"eos_token": "<new>", "unk_token": "<unk>"}


@pytest.mark.parametrize(
    "template", ["{{ a }}", [{"name": "tool_use", "template": "b"}, {"name": "default", "template": "{{ a }}"}]]
)
def test_the_chat_template_is_found_in_the_tokenizer_config(tmp_path: Path, template: object) -> None:
    write(tmp_path, tokenizer="{}", tokenizer_config={"chat_template": template})
    assert read_tokenizer(tmp_path).chat_templates["default"] == "{{ a }}"


def test_the_templates_own_file_counts_more(tmp_path: Path) -> None:
    write(tmp_path, tokenizer="{}", tokenizer_config={"chat_template": "old"}, chat_template="{{ new }}\n")
    assert read_tokenizer(tmp_path).chat_templates == {"default": "{{ new }}\n"}


def test_the_description_holds_the_file_as_it_is() -> None:
    document = json.loads(describe_tokenizer('{"ä": 1}', {}, {"eos_token": "</s>"}))
    assert document == {"tokenizer": '{"ä": 1}', "chat_template": None, "special_tokens": {"eos_token": "</s>"}}


def test_named_templates_are_read_from_files_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, tokenizer="{}", tokenizer_config={"chat_template": "old"}, chat_template="a")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("b", encoding="utf-8")
    assert read_tokenizer(tmp_path).chat_templates == {"default": "a", "tool_use": "b"}


@pytest.mark.parametrize(
    ("templates", "described"),
    [
        ("a", {"chat_template": "a"}),
        ({"default": "a", "rag": "b"}, {"chat_template": "a", "chat_templates": {"default": "a", "rag": "b"}}),
        ([{"name": "tool_use", "template": "b"}], {"chat_template": None, "chat_templates": {"tool_use": "b"}}),
        (None, {"chat_template": None}),
    ],
)
def test_the_description_holds_the_default_template_and_all_that_have_names(
    templates: object, described: dict[str, Any]
) -> None:
    document = json.loads(describe_tokenizer("{}", named_templates(templates), {}))
    assert document == {"tokenizer": "{}", "special_tokens": {}, **described}


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, tokenizer='{"ä": 1}')
    expected = hashlib.sha256((tmp_path / "tokenizer.json").read_bytes()).hexdigest()
    assert digest(read_tokenizer(tmp_path).tokenizer_json) == expected


def test_the_generation_config_sets_the_fields_it_names(tmp_path: Path) -> None:
    write(tmp_path, generation_config={"temperature": 0.7, "top_k": 20, "top_p": None, "eos_token_id": [1, 2]})
    assert read_generation_config(tmp_path) == generation_pb2.SamplingParams(temperature=0.7, top_k=20)


def test_no_generation_config_sets_nothing(tmp_path: Path) -> None:
    assert read_generation_config(tmp_path) == generation_pb2.SamplingParams()


def test_a_model_that_does_not_sample_is_greedy(tmp_path: Path) -> None:
    write(tmp_path, generation_config={"do_sample": False, "temperature": 0.7})
    assert read_generation_config(tmp_path) == generation_pb2.SamplingParams(temperature=0.0)
