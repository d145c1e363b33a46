"""The door answers whatever comes: by properties, and guided by coverage."""

import random
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import hostile
from tests.fuzz.doorstep import KINDS, Doorstep
from tests.fuzz.mutation import Mutator
from tests.processes import ROOT

SECONDS = 20
LEAST_INPUTS = 2_000


@pytest.fixture(scope="module")
def doorstep() -> Iterator[Doorstep]:
    with Doorstep() as entered:
        yield entered


@settings(max_examples=400, deadline=None)
@given(choice=st.integers(0, 5), share=st.sampled_from([0.05, 0.2, 0.5]), chance=st.randoms(use_true_random=False))
def test_hostile_values_in_any_fields_are_let_in_valid_or_refused_clean(
    doorstep: Doorstep, choice: int, share: float, chance: random.Random
) -> None:
    message = Mutator(chance).filled(KINDS[choice % len(KINDS)], share=share)
    doorstep.take(bytes([choice]) + message.SerializeToString())


@settings(max_examples=400, deadline=None)
@given(choice=st.integers(0, 5), data=st.binary(max_size=200), chance=st.randoms(use_true_random=False))
def test_spoilt_bytes_are_let_in_valid_or_refused_clean(
    doorstep: Doorstep, choice: int, data: bytes, chance: random.Random
) -> None:
    message = Mutator(chance).filled(KINDS[choice % len(KINDS)], share=0.1)
    doorstep.take(bytes([choice]) + Mutator(chance).spoilt(message.SerializeToString()) + data)


@pytest.mark.parametrize("field", ["json_schema", "parameters_json", "arguments_json"])
def test_every_hostile_json_is_let_in_valid_or_refused_clean(doorstep: Doorstep, field: str) -> None:
    for text in hostile.JSON_TEXTS:
        message = KINDS[0]()
        if field == "json_schema":
            message.prompt = "hello"
            message.sampling.structured_output.json_schema = text
        elif field == "parameters_json":
            message.chat.messages.add(role="user", content="hello")
            message.chat.tools.add(name="f", parameters_json=text)
        else:
            message.chat.messages.add(role="assistant").tool_calls.add(name="f", arguments_json=text)
        doorstep.take(b"\0" + message.SerializeToString())


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has wheels for Linux on x86-64 alone")
def test_coverage_guided_fuzzing_finds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.parser", "--seconds", str(SECONDS), "--corpus", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
    assert ended.returncode == 0, ended.stderr[-3000:]
    (inputs,) = re.findall(r"number_of_executed_units: *(\d+)", ended.stderr)
    assert int(inputs) > LEAST_INPUTS
