"""A model is quantised, served through the whole of Sluice on the real engine, and compared with the original."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.client import Client, ask
from sluice.v1 import inference_pb2
from tests.engine.cpu import HAS_AVX512
from tests.processes import ROOT, Sluice
from worker.demo_model import QUESTIONS
from worker.quantize.report import QuantizeReport

LOSS = 0.05
SCHEMES = {"gptq-w4a16": 0.75, "fp8-dynamic": 0.85}  # and the share of the size that is left
NEEDS_AVX512 = pytest.mark.skipif(not HAS_AVX512, reason="vLLM's kernel for INT4 weights on a CPU needs AVX-512")


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model's own work, as a file to calibrate with."""
    file: Path = tmp_path_factory.mktemp("calibration") / "conversations.jsonl"
    with file.open("w") as lines:
        for question, answer in QUESTIONS:
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            lines.write(json.dumps({"messages": messages}) + "\n")
    return file


@pytest.fixture(scope="module", params=[pytest.param("gptq-w4a16", marks=NEEDS_AVX512), "fp8-dynamic"])
def checkpoint(
    request: pytest.FixtureRequest, demo_model: Path, conversations: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A quantised demo model, as the command makes it."""
    output: Path = tmp_path_factory.mktemp("quantized") / str(request.param)
    command = [str(Path(sys.executable).with_name("sluice")), "quantize", "--model", str(demo_model)]
    command += ["--output", str(output), "--scheme", str(request.param), "--cache", str(ROOT / ".cache")]
    command += ["--calibration", str(conversations)]
    ran = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "[quantize] 5/5" in ran.stderr
    assert QuantizeReport.read(output).to_text() in ran.stdout
    return output


@pytest.fixture
def served(checkpoint: Path) -> Iterator[Sluice]:
    with Sluice(engine="vllm", model=str(checkpoint), worker_arguments=["--max-sequences", "64"]) as sluice:
        yield sluice


async def test_a_quantised_checkpoint_is_served_as_it_is_and_loses_less_than_a_twentieth(
    checkpoint: Path, served: Sluice, processes: Sluice
) -> None:
    report = QuantizeReport.read(checkpoint)
    assert report.calibration == "conversations.jsonl"
    assert report.top1_agreement > 1 - LOSS
    assert report.quantized_perplexity < report.original_perplexity * (1 + LOSS)
    assert report.quantized_bytes < SCHEMES[report.scheme] * report.original_bytes
    ours, theirs = await answers(served), await answers(processes)
    assert agreement(ours, theirs) > 1 - LOSS


async def answers(sluice: Sluice) -> list[list[int]]:
    """Ask every question of the demo model at once, greedily; return the answers' tokens."""
    async with Client(sluice.address) as client:
        found = await asyncio.gather(*(client.generate(greedy(question), timeout_s=300) for question, _ in QUESTIONS))
    return [answer.token_ids[0] for answer in found]


def greedy(question: str) -> inference_pb2.GenerateRequest:
    sampling = {"temperature": 0.0, "repetition_penalty": 1.0, "max_tokens": 96}
    return ask(messages=[{"role": "user", "content": question}], sampling=sampling)


def agreement(ours: list[list[int]], theirs: list[list[int]]) -> float:
    """The share of the other answers' tokens that ours have at the same place."""
    pairs = zip(ours, theirs, strict=True)
    same = sum(mine == other for our, their in pairs for mine, other in zip(our, their, strict=False))
    return same / sum(map(len, theirs))


def test_its_tokenizer_is_the_originals_so_that_both_can_serve_side_by_side(checkpoint: Path, demo_model: Path) -> None:
    for file in demo_model.glob("tokenizer*"):
        assert (checkpoint / file.name).read_bytes() == file.read_bytes()
