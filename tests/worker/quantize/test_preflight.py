"""What cannot be quantised is said before anything is installed, loaded or written."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.cli import parser
from common.model_config import read_model_config
from common.model_shape import ModelShape
from worker.quantize import environment
from worker.quantize.environment import EnvironmentFailed, prepared
from worker.quantize.preflight import CannotQuantize, check_disk, check_groups, check_memory
from worker.quantize.report import QuantizeReport
from worker.quantize.scheme import SCHEMES

ROOT = Path(__file__).resolve().parents[3]
SHAPE = ModelShape.from_config(read_model_config("Qwen/Qwen2.5-7B-Instruct"))
CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 3072,
    "max_position_embeddings": 8192,
}


def quantize(folder: Path, *arguments: str, scheme: str = "gptq-w4a16", config: dict[str, Any] = CONFIG) -> int:
    """Type the command for a folder that has a configuration and no weights; it must stop before it needs them."""
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(config))
    words = ["quantize", "--model", str(model), "--output", str(folder / "new"), "--cache", str(folder / "cache")]
    options = parser(words).parse_args([*words, "--scheme", scheme, *arguments])
    status: int = options.run(options)
    assert not (folder / "cache").exists()
    return status


def test_awq_without_a_gpu_is_refused_with_what_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    if torch.accelerator.is_available():
        pytest.skip("there is a GPU")
    assert quantize(tmp_path, scheme="awq-w4a16") == 1
    assert "awq-w4a16 needs a GPU, and there is none; gptq-w4a16 runs without one" in capsys.readouterr().err


def test_a_quantised_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quantize(tmp_path, config=CONFIG | {"quantization_config": {"quant_method": "gptq", "bits": 4}}) == 1
    assert "is quantised already, by gptq" in capsys.readouterr().err


def test_widths_that_are_not_whole_groups_are_refused_where_groups_matter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quantize(tmp_path, config=CONFIG | {"intermediate_size": 1000}) == 1
    assert "gptq-w4a16 wants widths of whole groups of 128, and the model has 1000" in capsys.readouterr().err
    check_groups(ModelShape.from_config(CONFIG | {"intermediate_size": 1000}), SCHEMES["fp8-dynamic"])


def test_an_output_with_something_in_it_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "precious").write_text("kept")
    assert quantize(tmp_path) == 1
    assert "exists and is not an empty folder" in capsys.readouterr().err
    assert (tmp_path / "new" / "precious").read_text() == "kept"


def test_a_calibration_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quantize(tmp_path, "--calibration", str(tmp_path / "none.txt")) == 1
    assert "none.txt: No such file" in capsys.readouterr().err


def test_too_little_memory_is_said_with_both_numbers() -> None:
    # 7.6156e9 x 2 bytes x 1.5 + 1.5 GiB = 22.8 GiB
    check_memory(SHAPE, 24 * 2**30)
    with pytest.raises(CannotQuantize, match=r"about 22\.8 GiB of memory are needed, and 8\.0 are free"):
        check_memory(SHAPE, 8 * 2**30)


def test_too_little_disk_is_said_with_both_numbers(tmp_path: Path) -> None:
    # 5.5453 GB x 1.05 = 5.4 GiB; 8.7059 GB x 1.05 = 8.5 GiB
    check_disk(SHAPE, SCHEMES["gptq-w4a16"], 6 * 2**30, tmp_path)
    with pytest.raises(CannotQuantize, match=r"about 8\.5 GiB of disk are needed at .*, and 6\.0 are free"):
        check_disk(SHAPE, SCHEMES["fp8-dynamic"], 6 * 2**30, tmp_path)


def test_an_installer_that_fails_is_quoted_and_tried_again_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(environment, "REQUIREMENT", f"{tmp_path}/no-such-package.whl")
    said: list[str] = []
    for _ in range(2):
        with pytest.raises(EnvironmentFailed, match=r"failed with status 1:(.|\n)*no-such-package"):
            prepared(tmp_path / "environment", said.append)
    assert len(said) == 2


def test_the_report_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    written = QuantizeReport("m", "gptq-w4a16", "", 44, 2733, 5_100_000, 3_700_000, 688, 4.352, 4.359, 0.9985, 0.6, {})
    written.write(tmp_path)
    assert QuantizeReport.read(tmp_path) == written
    assert "weights       5.1 -> 3.7 MB (73%)" in written.to_text()
    assert "the same likeliest token at 99.85% of them" in written.to_text()


def test_a_folder_without_weights_is_named_and_nothing_is_left_of_the_output(tmp_path: Path) -> None:
    """The job is run in this environment, which has no llm-compressor: it must fail before it needs it."""
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    command = [sys.executable, "-m", "worker.quantize.job", "--model", str(tmp_path), "--output", str(tmp_path / "new")]
    command += ["--scheme", "gptq-w4a16", "--samples", "1", "--sample-tokens", "64"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith("sluice: ")
    assert "Traceback" not in ran.stderr
