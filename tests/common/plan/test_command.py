"""sluice plan as it is typed."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.cli import parser
from common.model_config import ModelConfigError, quantisation_of, read_model_config
from common.model_shape import ModelShape, ModelShapeError

QWEN = "Qwen/Qwen2.5-7B-Instruct"
SMALL = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}


def plan(*arguments: str) -> int:
    options = parser(["plan"]).parse_args(["plan", *arguments])
    status: int = options.run(options)
    return status


def folder_with(folder: Path, config: dict[str, Any]) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_it_shows_every_topology_and_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan("--model", QWEN, "--gpus", "4", "--gpu-memory", "24GiB", "--context", "32768") == 0
    printed = capsys.readouterr().out
    for layout in ("4 x TP1", "2 x TP2", "1 x TP4"):
        assert printed.count(f"{layout}  ") == 6
    assert "For throughput" in printed
    assert "long context:" in printed
    assert "sluice-worker --model" in printed


def test_json_has_the_same_figures_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan("--model", QWEN, "--gpus", "4", "--context", "131072", "--weights", "bf16", "--format", "json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [each["fits"] for each in document["options"]] == [False, True, True, True, True, True]
    best = document["recommendations"]["long context"]
    assert document["options"][best["option"]]["tensor_parallel_size"] == 4
    assert best["commands"][-1] == "sluice-scheduler --worker 127.0.0.1:50061"


def test_nothing_that_fits_is_said_and_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan("--model", "Qwen/Qwen2.5-72B-Instruct", "--context", "4096") == 1
    assert "Nothing fits." in capsys.readouterr().out


def test_a_context_beyond_the_models_own_is_pointed_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan("--model", QWEN, "--gpus", "4", "--context", "131072") == 0
    assert "Beyond the model's own 32,768 tokens: workers stretch it by YaRN" in capsys.readouterr().out


def test_a_quantised_checkpoint_is_planned_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {"num_bits": 4, "group_size": 128, "type": "int"}
    section = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}
    model = folder_with(tmp_path / "m", SMALL | {"quantization_config": section})
    assert plan("--model", model, "--gpus", "2") == 0
    printed = capsys.readouterr().out
    assert "BF16" not in printed
    assert "sluice quantize" not in printed
    assert printed.count("INT4") >= 4


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 64}, ("gptq", 4, 64)),
        ({"quant_method": "awq", "w_bit": 4, "group_size": 128}, ("awq", 4, 128)),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, ("fp8", 8, None)),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, ("gptq", 4, None)),
    ],
)
def test_the_common_descriptions_of_quantised_weights_are_understood(
    section: dict[str, Any], expected: tuple[str, int, int | None]
) -> None:
    assert quantisation_of({"quantization_config": section}) == expected
    assert quantisation_of({}) is None


def test_a_model_that_is_nowhere_is_an_error_that_says_where_it_was_looked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert plan("--model", "somebody/something-that-is-not-cached") == 1
    error = capsys.readouterr().err
    assert error.startswith("sluice: 'somebody/something-that-is-not-cached' is no folder, and the hub does not give")
    assert plan("--model", "./not-there") == 1
    assert "is neither a folder nor a name on a hub" in capsys.readouterr().err


def test_a_folder_without_a_config_or_with_another_kind_of_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelConfigError, match=r"cannot read .*config.json"):
        read_model_config(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelConfigError, match="is not JSON"):
        read_model_config(str(tmp_path))
    with pytest.raises(ModelShapeError, match="num_experts"):
        ModelShape.from_config(SMALL | {"num_experts": 8})
    with pytest.raises(ModelShapeError, match="has no hidden_size"):
        ModelShape.from_config({})


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("0.5B", 494_032_768),
        ("1.5B", 1_543_714_304),
        ("3B", 3_085_938_688),
        ("7B", 7_615_616_512),
        ("14B", 14_770_033_664),
        ("32B", 32_763_876_352),
        ("72B", 72_706_203_648),
    ],
)
def test_the_known_models_have_the_published_number_of_parameters(size: str, parameters: int) -> None:
    assert ModelShape.from_config(read_model_config(f"Qwen/Qwen2.5-{size}-Instruct")).parameters == parameters


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu-memory", "24 bananas"], "must be a size like 24GiB"),
        (["--gpus", "0"], "must be at least 1"),
        (["--gpu-memory-utilization", "1.5"], "above 0 and at most 1"),
        (["--target-tpot", "0"], "must be above 0"),
    ],
)
def test_a_wrong_option_says_what_is_right(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        plan("--model", QWEN, *arguments)
    assert message in capsys.readouterr().err


def test_an_answer_as_long_as_the_context_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan("--model", QWEN, "--context", "100", "--output-tokens", "100") == 1
    assert "leaves no room for a prompt" in capsys.readouterr().err
