"""Compiles callers' constraints in a process of its own, each in a fork: what one needs, or breaks, ends with its fork.

Run as a program by worker.constraints. It reads one JSON document a line and answers each with one line: first the
Setup, whose answer says that it is ready, then constraints. It ends when its input does, so with the worker.
A fork is made before there is a constraint for it, since making it takes longer than most constraints do.
"""

import json
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import llguidance
from llguidance import LLMatcher, LLTokenizer

CPU_LIMIT_S = 1.0  # the engine core compiles it once more, and most constraints take a hundredth of that
MEMORY_LIMIT_MIB = 1_024
STEPS_TRIED = 8
LONGEST_REASON = 160
EXCERPT = re.compile(r"\n\s+\d+ \| .*|<state>.*", re.DOTALL)  # of the caller's own text, and of the library's state

OUT_OF_TIME = f"takes more than {CPU_LIMIT_S:g} s to compile"
OUT_OF_MEMORY = f"takes more than {MEMORY_LIMIT_MIB} MiB to compile"
DEAD_END = "NoExtensionBias"
NO_OUTPUT = "the model's tokens can form no output that it allows"


def serve() -> None:
    """Answer line by line until the input ends."""
    setup = json.loads(sys.stdin.readline())
    tokenizer, why = _tokenizer(setup)
    _answer(why)
    fork = Fork(lambda line: _fault(json.loads(line), tokenizer, setup))
    for line in sys.stdin:
        _answer(why or fork.ask(line))
        fork = fork.successor()


def _tokenizer(setup: dict[str, Any]) -> tuple[LLTokenizer | None, str]:
    """Make the model's tokenizer, or say why constraints do not go with it."""
    try:
        return LLTokenizer(setup["tokenizer"], n_vocab=setup["vocabulary"], eos_token=setup["eos_token_id"]), ""
    except Exception as error:
        return None, _short(f"the model's tokenizer does not go with constraints: {error}")


def _answer(why: str) -> None:
    sys.stdout.write(json.dumps({"refused": why}) + "\n")
    sys.stdout.flush()


def _short(why: str) -> str:
    """Cut a reason out of its middle, which quotes the caller: what it is about comes first or last."""
    text, half = " ".join(EXCERPT.sub("", why).split()), LONGEST_REASON // 2
    return text if len(text) <= LONGEST_REASON else f"{text[:half]}…{text[1 - half :]}"


class Fork:
    """A process that waits for one line, may take so much time and memory for its answer and no more, and ends."""

    def __init__(self, fault: Callable[[str], str]) -> None:
        """``fault``: makes the answer, in the process."""
        self._fault = fault
        reading, self._writing = os.pipe()
        self._reading, writing = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._writing)  # else it would never see the end of its input
            _work(fault, reading, writing)
        os.close(reading)
        os.close(writing)

    def ask(self, line: str) -> str:
        """Return the answer, or what ended the process."""
        with suppress(BrokenPipeError), os.fdopen(self._writing, "w") as question:
            question.write(line)
        with os.fdopen(self._reading) as answer:
            said = answer.read()
        status = os.waitpid(self._pid, 0)[1]
        return said if os.WIFEXITED(status) and not os.WEXITSTATUS(status) else _cause(status)

    def successor(self) -> "Fork":
        """Make a process for the next line."""
        return Fork(self._fault)


def _work(fault: Callable[[str], str], reading: int, writing: int) -> None:
    """Be the fork: answer and end, without the parent's clean-up."""
    try:
        limit = _address_space() + MEMORY_LIMIT_MIB * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with os.fdopen(reading) as question:
            line = question.read()
        if line:
            signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)  # processor time: a busy machine refuses nothing
            os.write(writing, _short(fault(line)).encode())
        os._exit(0)
    except MemoryError:
        os.write(writing, OUT_OF_MEMORY.encode())
        os._exit(0)
    finally:
        os._exit(1)


def _address_space() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


def _cause(status: int) -> str:
    """Say what ended a fork."""
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    match number:
        case signal.SIGPROF:
            return OUT_OF_TIME
        case signal.SIGABRT | signal.SIGKILL:
            return OUT_OF_MEMORY
        case 0:
            return "makes its compiler fail"
    return f"makes its compiler crash ({signal.Signals(number).name})"


def _fault(constraint: dict[str, Any], tokenizer: Any, setup: dict[str, Any]) -> str:
    """Return why no engine can follow a constraint; empty: it can."""
    try:
        grammar = to_grammar(constraint["kind"], constraint["text"], any_whitespace=setup["any_whitespace"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return str(error) or type(error).__name__
    matcher = LLMatcher(tokenizer, grammar, log_level=0)
    if "answer" in constraint:
        return _unfinished(matcher, constraint["answer"], tokenizer)
    return _dead_end(matcher, tokenizer.eos_token)


def _unfinished(matcher: LLMatcher, token_ids: list[int], tokenizer: LLTokenizer) -> str:
    """Return why tokens are no whole output, one that ends the sequence at their end or not."""
    ends = token_ids and (token_ids[-1] == tokenizer.eos_token or tokenizer.is_special_token(token_ids[-1]))
    if matcher.consume_tokens(token_ids[:-1] if ends else token_ids) and matcher.is_accepting():
        return ""
    return str(matcher.get_error() or "it ended before it was whole")


def _dead_end(matcher: LLMatcher, end: int) -> str:
    """Return why an output cannot go on, after a few of its tokens at random and all that are the only ones possible.

    An engine core that meets the library's limits ends the output there, as if it were complete.
    """
    chance = Random(0)
    for _ in range(STEPS_TRIED):
        allowed = matcher.compute_bitmask()
        if why := str(matcher.get_error() or ""):
            return NO_OUTPUT if DEAD_END in why else why
        if not any(allowed):
            return NO_OUTPUT
        token = _one_of(allowed, chance)
        if token == end or not matcher.consume_token(token):
            return ""
        matcher.consume_tokens(matcher.compute_ff_tokens())
        if matcher.is_stopped():
            return str(matcher.get_error() or "")
    return ""


def _one_of(allowed: bytes, chance: Random) -> int:
    """Choose a token of those whose bits are set."""
    place = chance.choice([place for place, byte in enumerate(allowed) if byte])
    return place * 8 + chance.choice([bit for bit in range(8) if allowed[place] >> bit & 1])


def to_grammar(kind: Any, text: str, *, any_whitespace: bool) -> str:
    """Make of a constraint what vLLM's guidance backend makes of it.

    Raises:
        ValueError: It is none.

    """
    if kind != "json_schema":
        if "\0" in text:
            raise ValueError("must not contain a NUL character")
        return str(llguidance.grammar_from(kind, text))
    schema = json.loads(text)
    if schema is False:
        raise ValueError(NO_OUTPUT)
    if "x-guidance" in schema:
        raise ValueError("the keyword 'x-guidance' would change how the schema is enforced")
    return str(LLMatcher.grammar_from_json_schema(text, defaults={"whitespace_flexible": any_whitespace}))


if __name__ == "__main__":
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    serve()
