"""What the door lets in, the engine's constraint keeps: drawn constraints, sampled hot, every whole answer validated.

    python -m tests.fuzz.constraints [--draws N] [--seed N] [--samples N]

Each draw passes the door, then llguidance as vLLM feeds it, with the demo model's tokenizer. Tokens are drawn from
those allowed, so that whatever a constraint allows can come. Whole answers go through the worker's reader of answers,
as before a STOP. One that it lets pass and that breaks its constraint is a violation, and ends the process with
status 1.
"""

import argparse
import json
import random
import re
import sys
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import regex
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend
from llguidance import LLMatcher, LLTokenizer
from vllm.v1.structured_output.backend_guidance import serialize_guidance_grammar
from vllm.v1.structured_output.backend_types import StructuredOutputOptions

from common.rich_status import Violation
from scheduler.structured_output import check_structured_output
from sluice.v1.generation_pb2 import StructuredOutput
from tests.fuzz.drawn_constraints import Draw
from worker import answer_reader
from worker.demo_tokenizer import END_OF_MESSAGE, train_tokenizer

MOST_TOKENS = 160
WILD_TOKENS = 30
SAMPLES = 3
OPTIONS = {
    "json_schema": StructuredOutputOptions.JSON,
    "regex": StructuredOutputOptions.REGEX,
    "choice": StructuredOutputOptions.CHOICE,
    "grammar": StructuredOutputOptions.GRAMMAR,
}


@dataclass
class Tally:
    """What became of all draws."""

    draws: int = 0
    refused_at_the_door: Counter[str] = field(default_factory=Counter)
    refused_by_the_engine: Counter[str] = field(default_factory=Counter)
    unfinished: int = 0
    refused_at_the_end: Counter[str] = field(default_factory=Counter)
    whole: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return a line for each figure."""
        lines = [f"drawn {self.draws}"]
        for name, refused in [
            ("the door", self.refused_at_the_door),
            ("the engine", self.refused_by_the_engine),
            ("the reader of answers", self.refused_at_the_end),
        ]:
            lines.append(f"refused by {name} {sum(refused.values())}")
            lines.extend(f"  {count:5} {why}" for why, count in refused.most_common())
        lines.append(f"whole answers {sum(self.whole.values())} {dict(self.whole)}, unfinished {self.unfinished}")
        return "\n".join([*lines, f"violations {len(self.violations)}", *self.violations])


class Engine:
    """llguidance, as vLLM feeds it."""

    def __init__(self) -> None:
        tokenizer = train_tokenizer()
        self._tokens = LLTokenizer(tokenizer.to_str(), eos_token=tokenizer.token_to_id(END_OF_MESSAGE))
        size = self._tokens.vocab_size
        special = [token for token in range(size) if self._tokens.is_special_token(token)]
        self._ordinary = np.ones(size, dtype=bool)
        self._ordinary[special] = False
        texts = [self._tokens.decode_bytes([token]) for token in range(size)]
        self._closing = np.array([bool(re.fullmatch(rb'[\]}",\s]*[\]}"]', text)) for text in texts])
        self._readable = np.array([text.isascii() and text.isalnum() for text in texts])

    def matcher(self, wanted: StructuredOutput) -> LLMatcher:
        """Return the constraint, compiled; it may hold an error."""
        kind = wanted.WhichOneof("constraint") or ""
        text = json.dumps(list(wanted.choice.values)) if kind == "choice" else getattr(wanted, kind)
        return LLMatcher(self._tokens, serialize_guidance_grammar(OPTIONS[kind], text), log_level=0)

    def sample(self, matcher: LLMatcher, chance: random.Random) -> str | None:
        """Return an answer that the constraint calls whole, or None where it did not end in time."""
        matcher.reset()
        said: list[int] = []
        while len(said) < MOST_TOKENS and not matcher.is_stopped():
            if matcher.is_accepting() and chance.random() < (0.2 if len(said) < WILD_TOKENS else 0.8):
                break
            allowed = self._allowed(matcher, chance, wild=len(said) < WILD_TOKENS)
            if not len(allowed):
                break
            said.append(int(chance.choice(allowed.tolist())))
            matcher.consume_token(said[-1])
        if matcher.is_error() or not matcher.is_accepting():
            return None
        return self._tokens.decode_bytes(said).decode()

    def allows(self, matcher: LLMatcher, text: str) -> bool:
        """Return whether the constraint calls this text whole."""
        matcher.reset()
        tokens = self._tokens.tokenize_bytes(text.encode())
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()

    def _allowed(self, matcher: LLMatcher, chance: random.Random, *, wild: bool) -> Any:
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        mask = np.unpackbits(bits, bitorder="little")[: len(self._ordinary)].astype(bool) & self._ordinary
        favoured = mask & (self._readable if wild else self._closing)
        return np.flatnonzero(favoured if favoured.any() and chance.random() < 0.6 else mask)


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Any:
    """Read a pattern by the regex module, which knows \\p as ECMA-262 does."""
    if isinstance(instance, str) and not regex.search(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


Validator = extend(Draft202012Validator, {"pattern": _pattern})


def why_broken(wanted: StructuredOutput, answer: str) -> str | None:
    """Return how an answer breaks its constraint, or None."""
    match wanted.WhichOneof("constraint"):
        case "json_schema":
            try:
                Validator(json.loads(wanted.json_schema)).validate(json.loads(answer))
            except (ValidationError, ValueError) as error:
                return str(error).split("\n")[0]
            except OverflowError:  # jsonschema cannot divide a number that is too large for binary floating point
                return None
        case "regex":
            return None if regex.fullmatch(wanted.regex, answer) else "no full match"
        case "choice":
            return None if answer in wanted.choice.values else "none of the choices"
    return None


def read(wanted: StructuredOutput, answer: str) -> str:
    """Return why the worker would not let an answer end with STOP; empty where it would."""
    kind = wanted.WhichOneof("constraint") or ""
    if kind not in ("json_schema", "regex"):
        return ""
    try:
        return answer_reader.why_broken(kind, getattr(wanted, kind), answer)
    except Exception:  # undecided, as in the reader's own process
        return ""


def try_constraints(draws: int, seed: int, samples: int = SAMPLES) -> Tally:
    """Draw constraints, and sample and validate what the door lets in."""
    warnings.simplefilter("ignore", FutureWarning)  # about classes within classes, which the door refuses
    tally, engine = Tally(), Engine()
    for number in range(draws):
        chance = random.Random(f"{seed}-{number}")
        _try_one(Draw(chance).constraint(), engine, chance, samples, tally)
    return tally


def _try_one(wanted: StructuredOutput, engine: Engine, chance: random.Random, samples: int, tally: Tally) -> None:
    tally.draws += 1
    found: list[Violation] = []
    check_structured_output(wanted, found)
    if found:
        tally.refused_at_the_door[reason(found[0].description)] += 1
        return
    matcher = engine.matcher(wanted)
    if matcher.is_error():
        tally.refused_by_the_engine[reason(matcher.get_error())] += 1
        return
    for _ in range(samples):
        answer = engine.sample(matcher, chance)
        if answer is None:
            tally.unfinished += 1
            continue
        if said := read(wanted, answer):
            tally.refused_at_the_end[said] += 1
            continue
        tally.whole[wanted.WhichOneof("constraint") or ""] += 1
        if (why := why_broken(wanted, answer)) is not None:
            tally.violations.append(f"{wanted} gave {answer!r}: {why}")


def reason(description: str) -> str:
    """Return a refusal without its place and values, so that like ones count together."""
    first = re.sub(r"^at (\$\S*|character \d+): |at character \d+: ", "", description.split("\n")[0])
    return re.sub(r"-?\d[\d.e+]*|\".*\"|/.*/", "…", first)[:90]


def main() -> int:
    """Print the tally; 1 where a constraint was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5_000, help="how many constraints")
    parser.add_argument("--seed", type=int, default=1, help="of all chance")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="answers for each constraint")
    options = parser.parse_args()
    tally = try_constraints(options.draws, options.seed, options.samples)
    print(tally)
    return bool(tally.violations)


if __name__ == "__main__":
    sys.exit(main())
