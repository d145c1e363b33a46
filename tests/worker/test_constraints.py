"""The checker of constraints with its real process, and the real thing that compiles them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.worker.tokenizers_of_each_kind import byte_level, demo
from worker.constraints import PROGRAM, Constraint, ConstraintChecker

compiler = pytest.importorskip("worker.constraint_compiler")

PATIENCE_S = 30.0
FORK = """
import sys
from worker.constraint_compiler import Fork
print(Fork(lambda code: exec(code) or "").ask(sys.argv[1]))
"""
TOO_COSTLY = Constraint("regex", "(a{1000}){1000}")


def setup(tokenizer: Tokenizer | None = None) -> dict[str, Any]:
    """Make what the compiler is told of a small model."""
    tokenizer = tokenizer or byte_level()
    end = tokenizer.token_to_id("</s>")
    document, size = tokenizer.to_str(), tokenizer.get_vocab_size()
    return {"tokenizer": document, "vocabulary": size, "eos_token_id": end, "any_whitespace": True}


@pytest.fixture
async def checker() -> AsyncIterator[ConstraintChecker]:
    async with asyncio.timeout(PATIENCE_S):
        checker = ConstraintChecker(setup())
        await checker.start()
        yield checker
        await checker.close()


def process_id(checker: ConstraintChecker) -> int:
    number = checker.process_id
    assert number is not None
    return number


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("regex", "(?i)yes"),
        Constraint("json_schema", '{"type": "array", "minItems": 1}'),
        Constraint("choice", '["yes", "no"]'),
        Constraint("grammar", 'start: "a"'),
        Constraint("grammar", 'root ::= "a"'),
    ],
)
async def test_what_can_be_followed_is_not_refused(checker: ConstraintChecker, constraint: Constraint) -> None:
    assert await checker.check(constraint) == ""
    assert checker.remembered(constraint) == ""


async def test_a_reason_is_short_and_quotes_little(checker: ConstraintChecker) -> None:
    verdict = await checker.check(Constraint("regex", "(" * 30_000 + "a" + ")" * 30_000))
    assert 0 < len(verdict) <= compiler.LONGEST_REASON
    assert "nest" in verdict


@pytest.mark.parametrize("prefix", ["", "ab", "[ab]{3}"])
async def test_what_meets_a_limit_after_its_first_tokens_is_refused(prefix: str) -> None:
    """An engine core would end such an output there, as if it were complete."""
    checker = ConstraintChecker({**setup(demo()), "eos_token_id": 0})
    await checker.start()
    assert "too many expressions" in await checker.check(Constraint("regex", prefix + "(.{1,500}){1,500}x"))
    await checker.close()


async def test_what_takes_too_long_is_refused_and_the_process_lives(checker: ConstraintChecker) -> None:
    before = process_id(checker)
    assert await checker.check(TOO_COSTLY) == compiler.OUT_OF_TIME
    assert await checker.check(Constraint("regex", "a")) == ""
    assert process_id(checker) == before


async def test_short_constraints_overtake_long_ones(checker: ConstraintChecker) -> None:
    ended: list[str] = []

    async def check(text: str) -> None:
        await checker.check(Constraint("choice", json.dumps([text, "x"])))
        ended.append(text)

    texts = ["first in the process", "a" * 5_000, "b" * 50, "c"]
    await asyncio.gather(*map(check, texts))
    assert ended[-1] == texts[1]


async def test_a_check_that_nobody_waits_for_is_skipped(checker: ConstraintChecker) -> None:
    first = asyncio.create_task(checker.check(TOO_COSTLY))
    await asyncio.sleep(0)
    doomed = Constraint("regex", "(b{1000}){1000}")
    waiting = asyncio.create_task(checker.check(doomed))
    await asyncio.sleep(0)
    waiting.cancel()
    await first
    assert await checker.check(Constraint("regex", "c{1000}" * 10)) == ""
    assert checker.remembered(doomed) is None


async def test_a_killed_process_is_replaced(checker: ConstraintChecker) -> None:
    before = process_id(checker)
    os.kill(before, signal.SIGKILL)
    assert await checker.check(Constraint("regex", "a")) == ""
    assert process_id(checker) != before


async def test_a_process_that_always_ends_refuses(tmp_path: Path) -> None:
    program = tmp_path / "one_word.py"
    program.write_text('input(); print(\'{"refused": ""}\', flush=True); input()')
    checker = ConstraintChecker({}, (sys.executable, str(program)))
    await checker.start()
    assert "crash" in await checker.check(Constraint("regex", "a"))
    await checker.close()


async def test_a_tokenizer_that_will_not_do_refuses_all_constraints() -> None:
    checker = ConstraintChecker({**setup(), "tokenizer": "{}"})
    await checker.start()
    assert "tokenizer" in await checker.check(Constraint("regex", "a"))
    await checker.close()


async def test_verdicts_are_bounded_in_number(checker: ConstraintChecker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.constraints.MOST_VERDICTS", 2)
    constraints = [Constraint("regex", text) for text in "abc"]
    for constraint in constraints:
        await checker.check(constraint)
    assert [checker.remembered(constraint) for constraint in constraints] == [None, "", ""]


async def test_closing_ends_the_process(checker: ConstraintChecker) -> None:
    process = checker._compiler._process
    await checker.close()
    assert process is not None
    assert process.returncode == -signal.SIGKILL
    await checker.start()


def test_the_process_ends_when_nobody_asks_any_more() -> None:
    with subprocess.Popen(PROGRAM, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(setup()) + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline()) == {"refused": ""}
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0


def ended_by(code: str) -> str:
    """Return why a constraint is refused whose compiling does this."""
    return subprocess.run([sys.executable, "-c", FORK, code], stdout=-1, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("while True: pass", compiler.OUT_OF_TIME),
        ("b'a' * 2**31", compiler.OUT_OF_MEMORY),
        ("import os; os.abort()", compiler.OUT_OF_MEMORY),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crash (SIGSEGV)"),
        ("1 / 0", "makes its compiler fail"),
        ("pass", ""),
    ],
)
def test_whatever_ends_a_fork_is_told(code: str, why: str) -> None:
    assert why in ended_by(code) if why else not ended_by(code)
